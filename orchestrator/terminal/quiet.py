"""Redirects the output of libraries to the log of the run, so that only our lines reach the terminal.

Ray, its C++ parts and other libraries write to file descriptors 1 and 2 at any time, and no setting silences
them all. So the descriptors themselves are redirected to the log before Ray is imported. Processes started
after that inherit the log and never keep the terminal or a pipe open.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from cellsemi.rounds.store.files import explained

STDOUT, STDERR = 1, 2


@contextlib.contextmanager
def quiet_output(log_path: Path) -> Iterator[TextIO]:
    """Append everything written to descriptors 1 and 2 to `log_path`; yields the original standard error.

    Leaving restores both, also after an error. RunError when the log cannot be written.
    """
    with explained(log_path):
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    _flush()
    kept = {number: os.dup(number) for number in (STDOUT, STDERR)}  # not inherited by children
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    try:
        for number in kept:
            os.dup2(log, number)  # inherited
        with os.fdopen(os.dup(kept[STDERR]), "w", buffering=1, encoding=encoding, errors="replace") as stream:
            yield stream
    finally:
        _flush()  # output that is still buffered belongs in the log
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)
        os.close(log)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # None in a process without a console
            stream.flush()
