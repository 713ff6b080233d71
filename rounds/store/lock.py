"""Lets one driver at a time work on a run."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from cellsemi.configs.errors import RunError
from cellsemi.rounds.store import files
from cellsemi.rounds.store.run import RunPaths

PATIENCE_S = 0.2  # `is_locked` holds the lock for an instant: whoever meets it tries again for this long
POLL_S = 0.01


class LockHolder(BaseModel):
    """The process that holds the lock, in a file of its own: on Windows a locked file cannot be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    host: str


@contextlib.contextmanager
def driver_lock(paths: RunPaths) -> Iterator[None]:
    """Hold the run for this process; RunError naming the holder when another driver has it.

    The operating system releases the lock however the process ends, kill -9 included. RunError, too, when the
    folder of the run cannot be written.
    """
    lock = FileLock(paths.lock)
    if not _acquired(lock, paths):
        raise RunError(
            f"{paths.root}: another cellsemi is working on this run ({_holder(paths)}). "
            "Wait for it, stop it, or start another run with --run NAME"
        )
    with contextlib.ExitStack() as on_exit:
        on_exit.callback(lock.release)
        on_exit.callback(_holder_file(paths).unlink, missing_ok=True)  # first: only the holder removes it
        holder = LockHolder(pid=os.getpid(), host=socket.gethostname())
        files.write_text(_holder_file(paths), holder.model_dump_json() + "\n")
        yield


def is_locked(paths: RunPaths) -> bool:
    """Whether a driver is working on the run now. A driver that starts at this moment is not turned away."""
    if not paths.lock.is_file():
        return False
    lock = FileLock(paths.lock)
    if not _acquired(lock, paths):
        return True
    lock.release()
    return False


def _acquired(lock: FileLock, paths: RunPaths) -> bool:
    try:
        with files.explained(paths.lock):
            lock.acquire(timeout=PATIENCE_S, poll_interval=POLL_S)
    except Timeout:
        return False
    return True


def _holder_file(paths: RunPaths) -> Path:
    return paths.lock.with_name(f"{paths.lock.name}.json")


def _holder(paths: RunPaths) -> str:
    try:
        holder = LockHolder.model_validate_json(_holder_file(paths).read_bytes())
    except (ValidationError, OSError):
        return "process unknown"
    return f"process {holder.pid} on {holder.host}"
