"""Starts processes beside a training that do not run its main module again and end when it does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

PRELOADED = ("torch", "cellsemi.models.crops.preload")  # what the processes import once, together


def context() -> Any:
    """Processes are copies of a server without threads: a copy of this process could inherit a lock that is held."""
    found = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        found.set_forkserver_preload(list(PRELOADED))
    return found


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Hide the main module while processes start: they would run it again, and a script may have no guard for that."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def follow_parent() -> None:
    """Call it in a new process: signals that go to all processes of a run are answered by the one that started it.

    The process ends when that one does, killed or not: the server is in between, so that nobody else would notice.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
