"""Keeps local copies of objects for readers that need a file: tables of which parts are read, weights.

A copy belongs to one content of an object, so it never goes stale: another content has another copy. All processes of a
machine share them; those that were not used for longest are removed when all together are over LIMIT.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path, PurePosixPath

from cellsemi.configs.errors import RunError
from cellsemi.rounds.storage import object_store

FOLDER_VARIABLE = "CELLSEMI_OBJECT_CACHE"  # names another folder for the copies
LIMIT = 20 * 2**30  # bytes
YOUNG_S = 60.0  # a copy that was asked for within this time is not removed: its reader may be about to open it


def local_copy(address: str) -> Path:
    """A local file with the content of an object; FileNotFoundError where there is none. It must not be written to."""
    found = object_store.head(address)
    if found is None:
        raise FileNotFoundError(2, "No such object", address)
    name = hashlib.sha256(f"{address}\n{found.mark}".encode()).hexdigest()[:40]
    folder = copies_folder()
    path = folder / f"{name}{PurePosixPath(address).suffix}"
    with contextlib.suppress(OSError):
        os.utime(path)  # it was used now
    if not path.is_file():
        _make_room(folder, found.size)
        unfinished = folder / f".{uuid.uuid4().hex}.tmp"
        try:
            object_store.download(address, unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


@functools.cache
def local_folder(address: str) -> Path:
    """A local folder with the objects below an address, as they are when this process first asks; gone at its end."""
    folder = Path(tempfile.mkdtemp(prefix="cellsemi-objects-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for entry in object_store.list_folder(address, recursive=True):
        if entry.is_file:
            target = folder / entry.address.removeprefix(f"{address}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            object_store.download(entry.address, target)
    return folder


def copies_folder() -> Path:
    """The folder of the copies, made for this user alone; RunError where it is another user's."""
    named = os.environ.get(FOLDER_VARIABLE)
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(named) if named else Path(tempfile.gettempdir()) / f"cellsemi-objects-{user}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not named and hasattr(os, "getuid") and folder.stat().st_uid != user:
        raise RunError(f"{folder}: belongs to another user; name a folder of your own with {FOLDER_VARIABLE}")
    return folder


def _make_room(folder: Path, size: int) -> None:
    """Remove the copies that were not used for longest, until one more of `size` bytes is within the limit."""
    with os.scandir(folder) as entries:
        found = []
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                about = entry.stat()
                found.append((about.st_mtime, about.st_size, entry.path))
    over = sum(each[1] for each in found) + size - LIMIT
    young = time.time() - YOUNG_S
    for used, bytes_, path in sorted(found):
        if over <= 0 or used > young:
            break
        Path(path).unlink(missing_ok=True)
        over -= bytes_
