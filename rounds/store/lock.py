"""Lets one driver at a time work on a run, and says who it is without taking the lock."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cellsemi.configs.errors import RunError
from cellsemi.rounds.storage import lease
from cellsemi.rounds.storage.object_path import ObjectPath
from cellsemi.rounds.store import files
from cellsemi.rounds.store.run import RunPaths

with warnings.catch_warnings():  # without fcntl the import warns in its own words; `driver_lock` says what it means
    warnings.simplefilter("ignore")
    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

PATIENCE_S = 0.2  # a lock that is held for an instant only is waited for
POLL_S = 0.01
CANNOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # what such a file system answers


class LockHolder(BaseModel):
    """The process that holds the lock, in a file of its own: on Windows a locked file cannot be read.

    `started` tells it from a later process with the same number, and `machine` a host from another of the same name,
    where the system says it (Linux).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    host: str
    started: str = ""
    machine: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def here(self) -> bool:
        """Whether it is a process of this machine, which alone can be asked."""
        return self.host == socket.gethostname()

    @property
    def gone(self) -> bool:
        """Whether it is a process of this machine that has ended."""
        return self.here and not (_runs(self.pid) and _started(self.pid) == self.started)


@contextlib.contextmanager
def driver_lock(paths: RunPaths) -> Iterator[str]:
    """Hold the run for this process; RunError naming the holder when another driver has it. In a bucket: a lease.

    The operating system releases the lock however the process ends, kill -9 included. Where the file system has no
    locks, a file marks the run, and the block is given a sentence that says so; else "". RunError, too, when the
    folder of the run cannot be written.
    """
    if isinstance(paths.root, ObjectPath):
        with _leased(paths):
            yield ""
        return
    lock = _acquired(paths)
    if lock is None:
        raise _refusal(paths, read_holder(paths))
    with contextlib.ExitStack() as on_exit:
        on_exit.callback(lock.release)
        on_exit.callback(_holder_file(paths).unlink, missing_ok=True)  # first: only the holder removes it
        files.write_text(_holder_file(paths), _this_process().model_dump_json() + "\n")
        yield _sentence(lock) if isinstance(lock, SoftFileLock) else ""


def read_holder(paths: RunPaths) -> LockHolder | None:
    """The driver that works on the run, as it wrote when it began; None where there is none, or it has ended.

    Takes no lock and writes nothing. Of another machine nobody can tell from here whether its process still runs.
    """
    if isinstance(paths.root, ObjectPath):
        claim = lease.holder(str(paths.lock), _has_ended)
        return None if claim is None else _said(claim)
    try:
        holder = LockHolder.model_validate_json(_holder_file(paths).read_bytes())
    except (ValidationError, OSError):
        return None
    return None if holder.gone else holder


@contextlib.contextmanager
def _leased(paths: RunPaths) -> Iterator[None]:
    claim = _this_process().model_dump_json().encode() + b"\n"
    with contextlib.ExitStack() as on_exit:
        try:
            on_exit.enter_context(lease.lease(str(paths.root), str(paths.lock), claim, _has_ended))
        except lease.Refused as refused:
            raise _refusal(paths, _said(refused.claim), f" or, if it was killed, {lease.LEASE_S:g} s") from None
        yield


def _refusal(paths: RunPaths, holder: LockHolder | None, how_long: str = "") -> RunError:
    return RunError(
        f"{paths.root}: another cellsemi is working on this run ({holder or 'process unknown'}). "
        f"Wait for it{how_long}, stop it, or start another run with --run NAME"
    )


def _this_process() -> LockHolder:
    pid = os.getpid()
    return LockHolder(pid=pid, host=socket.gethostname(), started=_started(pid), machine=_machine())


def _said(claim: bytes) -> LockHolder | None:
    """Who wrote a claim; None where it does not say so."""
    try:
        return LockHolder.model_validate_json(claim)
    except ValidationError:
        return None


def _has_ended(claim: bytes) -> bool:
    """Whether the process of a claim is known to have ended: it was one of this machine, by more than its name."""
    holder = _said(claim)
    return holder is not None and bool(holder.machine) and holder.machine == _machine() and holder.gone


def _acquired(paths: RunPaths) -> BaseFileLock | None:
    """The lock, held; a SoftFileLock where the file system has none; None when another process holds it."""
    marker = SoftFileLock(paths.lock.with_name(f"{paths.lock.name}.held"))
    try:
        with files.explained(paths.lock), warnings.catch_warnings():
            warnings.simplefilter("error")  # filelock says so when it marks a file instead
            try:
                lock: BaseFileLock = FileLock(paths.lock)
                lock.acquire(timeout=PATIENCE_S, poll_interval=POLL_S)
            except (UserWarning, NotImplementedError):
                lock = marker
            except OSError as error:
                if error.errno not in CANNOT_LOCK:
                    raise
                lock = marker
            if lock is marker:
                lock.acquire(timeout=PATIENCE_S, poll_interval=POLL_S)
    except Timeout:
        return None
    return lock


def _sentence(lock: BaseFileLock) -> str:
    return (
        f"This file system cannot lock files: {lock.lock_file} marks the run as in use. Start no second cellsemi on "
        "it; where one was killed, remove that file"
    )


def _holder_file(paths: RunPaths) -> Path:
    return paths.lock.with_name(f"{paths.lock.name}.json")


def _runs(pid: int) -> bool:
    """Whether a process of this machine runs."""
    if sys.platform == "win32":  # os.kill would end it
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        ctypes.windll.kernel32.CloseHandle(handle)
        return bool(handle)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs, as another user
        return True
    return True


def _machine() -> str:
    """This start of this machine, and the processes that are numbered together (a container's); "" where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in the clock ticks of the system; "" where /proc does not say it."""
    try:
        about = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return about.rpartition(")")[2].split()[19]  # the 22nd field of proc(5); the name before it may hold spaces
