"""Redirects the output of libraries to the log of the run, so that only our lines reach the terminal.

Ray, its C++ parts and other libraries write to file descriptors 1 and 2 at any time, and no setting silences
them all. So the descriptors themselves are redirected to the log before Ray is imported. Processes started
after that inherit the log and never keep the terminal or a pipe open.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from cellsemi.rounds.store.files import append_to, explained

STDOUT, STDERR = 1, 2
GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe has ended, or the terminal was closed


class _Lasting(io.FileIO):
    """A descriptor whose reader may go away: what is written after that goes nowhere, and is no error."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return memoryview(data).nbytes


def lasting_stream(descriptor: int, like: TextIO | None, closes: bool = False) -> TextIO:
    """A text stream on a descriptor that goes on when its reader has gone; `like` gives its encoding."""
    encoding = getattr(like, "encoding", None) or "utf-8"
    buffer = io.BufferedWriter(_Lasting(descriptor, "w", closefd=closes))
    return io.TextIOWrapper(buffer, encoding=encoding, errors="replace", line_buffering=True)


def outlast_readers() -> None:
    """Let standard output and standard error of this process go on when a pipe behind them is closed (`| head`)."""
    for name, descriptor in (("stdout", STDOUT), ("stderr", STDERR)):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, lasting_stream(descriptor, stream))


@contextlib.contextmanager
def quiet_output(log_path: Path) -> Iterator[TextIO]:
    """Append everything written to descriptors 1 and 2 to `log_path`; yields the original standard error.

    Leaving restores both, also after an error. RunError when the log cannot be written.
    """
    with explained(log_path):
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(append_to(log_path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    _flush()
    kept = {number: os.dup(number) for number in (STDOUT, STDERR)}  # not inherited by children
    try:
        for number in kept:
            os.dup2(log, number)  # inherited
        with lasting_stream(os.dup(kept[STDERR]), sys.stderr, closes=True) as stream:
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
