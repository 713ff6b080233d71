"""Writes what grows or changes every second (events, logs, progress) to a local file, and that as an object at times.

An object cannot be appended to. What is written here reaches the store EVERY_S seconds later, or less often where
sending takes longer than a twentieth of the time; in any case when it is read by the process that writes it, and when
that process ends. A process that is killed loses what it wrote since the last time.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from cellsemi.configs.errors import RunError
from cellsemi.rounds.storage import object_store

EVERY_S = 5.0
PREFIX = "cellsemi-appended-"  # of the folder of a process, before its number
LEFT_S = 24 * 3600.0
SHARE = 20.0  # sending takes at most one part of so many of the time


class _Spooled:
    """One object and the local file that it is written from."""

    def __init__(self, address: str, path: Path) -> None:
        self.address, self.path = address, path
        self.sent: tuple[int, int] | None = None  # bytes and time of change of what was sent last
        self.due = 0.0
        self.lock = threading.Lock()

    def send(self, now: bool) -> None:
        """Write the object where the local file has changed, and it is time."""
        with self.lock:
            if not self.path.is_file() or (not now and time.monotonic() < self.due):
                return
            about = self.path.stat()
            stamp = (about.st_size, about.st_mtime_ns)
            if stamp == self.sent:
                return
            started = time.monotonic()
            object_store.put(self.address, self.path.read_bytes())
            self.sent = stamp
            ended = time.monotonic()
            self.due = ended + max(EVERY_S, SHARE * (ended - started))


_spooled: dict[str, _Spooled] = {}
_change = threading.Lock()


def spool(address: str) -> Path:
    """The local file in which this process appends to an object; it begins with what the object holds."""
    with _change:
        found = _spooled.get(address)
        if found is None:
            found = _spooled[address] = _Spooled(address, _made_folder() / uuid.uuid4().hex)
            with contextlib.suppress(FileNotFoundError):
                found.path.write_bytes(object_store.get(address))
                about = found.path.stat()
                found.sent = (about.st_size, about.st_mtime_ns)
    found.path.touch()
    return found.path


def write_later(address: str, content: bytes) -> None:
    """Write an object some seconds from now; of several contents for it the last one is written."""
    with _change:
        found = _spooled.setdefault(address, _Spooled(address, _made_folder() / uuid.uuid4().hex))
    fresh = found.path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(found.path)


def settle(address: str) -> None:
    """Write what waits for an object, so that it can be read."""
    if (found := _spooled.get(address)) is not None:
        found.send(now=True)


def settle_below(folder: str) -> None:
    """The same of all objects below a folder."""
    for each in _below(folder):
        each.send(now=True)


def settle_all() -> None:
    """The same of all objects."""
    for each in list(_spooled.values()):
        each.send(now=True)


def forget(address: str) -> None:
    """What waits for an object, or for those below a folder, is not written any more."""
    for each in _below(address):
        with _change:
            _spooled.pop(each.address, None)
        with each.lock:  # what is being sent arrives before the caller goes on
            each.path.unlink(missing_ok=True)


def _below(address: str) -> Iterator[_Spooled]:
    for each in list(_spooled.values()):
        if each.address == address or each.address.startswith(f"{address}/"):
            yield each


@functools.cache
def _made_folder() -> Path:
    import pyarrow.fs  # noqa: F401 (what it does at the end of a process must come after ours)

    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    atexit.register(_end, folder)
    threading.Thread(target=_send_at_times, name="appended", daemon=True).start()
    return folder


def _sweep() -> None:
    """Remove the folders of processes that were killed: they do not run, and wrote nothing for LEFT_S."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            last = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - last > LEFT_S and not Path(f"/proc/{pid}").exists():
                shutil.rmtree(folder, ignore_errors=True)


def _send_at_times() -> None:
    pause = threading.Event()  # never set
    while not pause.wait(EVERY_S / 5):
        for each in list(_spooled.values()):
            with contextlib.suppress(RunError, OSError):  # tried again, and said where somebody waits for it
                each.send(now=False)


def _end(folder: Path) -> None:
    for each in list(_spooled.values()):
        with contextlib.suppress(RunError, OSError):
            each.send(now=True)
    shutil.rmtree(folder, ignore_errors=True)
