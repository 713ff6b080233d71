"""Lets one driver at a time work on a run."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator

from cellsemi.configs.errors import RunError
from cellsemi.rounds.store import files
from cellsemi.rounds.store.run import RunPaths


@contextlib.contextmanager
def driver_lock(paths: RunPaths) -> Iterator[None]:
    """Hold the run for this process; RunError naming the holder when another driver has it.

    An advisory flock: the kernel releases it however the process ends, kill -9 included.
    """
    with files.explained(paths.lock):
        handle = paths.lock.open("a+", encoding="utf-8")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{paths.root}: another cellsemi is working on this run ({_holder(paths)}). "
                "Wait for it, stop it, or start another run with --run NAME"
            ) from None
        handle.seek(0)
        handle.truncate()
        handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        handle.flush()
        try:
            yield
        finally:
            handle.seek(0)
            handle.truncate()


def is_locked(paths: RunPaths) -> bool:
    """Whether a driver is working on the run now."""
    if not paths.lock.is_file():
        return False
    with paths.lock.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _holder(paths: RunPaths) -> str:
    try:
        holder = json.loads(paths.lock.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, OSError):
        return "process unknown"
