"""Writes files and folders that are whole or absent: temporary name, fsync, rename; hashes; free space.

A path of a run or of data may be an `ObjectPath`, an object in a bucket: `place` makes the one or the other of a text.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cellsemi.configs.errors import RunError
from cellsemi.rounds.storage import appended, local_copies, object_store
from cellsemi.rounds.storage.object_path import ObjectPath

UNFINISHED = ".tmp"  # the suffix of a file while it is written
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (
    errno.EACCES, errno.EROFS, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
)  # fmt: skip


def place(text: str | os.PathLike[str]) -> Path:
    """The path of a file or folder, or the ObjectPath of an address (s3://, gs://); what is one already stays one."""
    if isinstance(text, ObjectPath):
        return text
    name = os.fspath(text)
    return ObjectPath(name) if object_store.is_address(name) else Path(name)


def local(path: Path) -> Path:
    """A file of this machine with the content of `path`, only to be read: itself, or a local copy of an object."""
    return path.local() if isinstance(path, ObjectPath) else path


def local_folder(path: Path) -> Path:
    """A folder of this machine with what `path` holds, only to be read: itself, or local copies of its objects."""
    return local_copies.local_folder(str(path)) if isinstance(path, ObjectPath) else path


def append_to(path: Path) -> Path:
    """The file that is appended to in place of `path`: itself, or one that is written as an object at times."""
    return appended.spool(str(path)) if isinstance(path, ObjectPath) else path


def list_names(folder: Path) -> list[tuple[str, bool]]:
    """The names in a folder, and whether each is a folder; OSError when it cannot be read."""
    if isinstance(folder, ObjectPath):
        found = object_store.list_folder(str(folder))
        return [(entry.address.rpartition("/")[2], not entry.is_file) for entry in found]
    with os.scandir(folder) as entries:
        return [(entry.name, entry.is_dir()) for entry in entries]


def remove_folder(path: Path, ignore_errors: bool = False) -> None:
    """Remove a folder with all that it holds, as shutil.rmtree."""
    if not isinstance(path, ObjectPath):
        shutil.rmtree(path, ignore_errors=ignore_errors)
        return
    try:
        path.remove_folder()
    except (FileNotFoundError, RunError):
        if not ignore_errors:
            raise


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file atomically: after a crash `path` holds the old content or the new, never a part (`atomic_file`).

    What is not `durable` is an object some seconds later. Raises RunError when the disk is full or the folder cannot
    be written.
    """
    if isinstance(path, ObjectPath):
        if durable:
            path.write_bytes(content)
        else:
            appended.write_later(str(path), content)
        return
    with atomic_file(path, durable) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write a stream to; it takes the name `path` when the block ends without an error.

    What is not `durable` is not forced to the disk: a power cut may leave an old state, or an empty file.
    Raises RunError when the disk is full or the folder cannot be written. What becomes an object is a temporary file
    of this machine until then.
    """
    if isinstance(path, ObjectPath):
        with explained(path), tempfile.TemporaryDirectory(prefix="cellsemi-") as folder:
            unsent = Path(folder) / path.name
            with unsent.open("wb") as file:
                yield file
            appended.forget(str(path))
            object_store.put_file(str(path), unsent)
        return
    _check_here(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{UNFINISHED}")
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if durable:
            _fsync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to write into; it takes that name when the block ends without an error.

    `path` is absent, or an empty folder. Remains of a killed call are removed. Raises RunError when it
    holds something in the end, is the current folder, or cannot be written, and when the disk is full. What becomes
    objects is a temporary folder of this machine until then; the files that say what the others are come last.
    """
    if isinstance(path, ObjectPath):
        with explained(path), tempfile.TemporaryDirectory(prefix="cellsemi-") as made:
            yield Path(made)
            if path.is_dir() and any(path.iterdir()):
                raise RunError(f"{path}: holds something already; name a new folder")
            for each in sorted(Path(made).rglob("*"), key=lambda each: (each.suffix == ".json", each)):
                if each.is_file():
                    object_store.put_file(str(path / each.relative_to(made)), each)
        return
    _check_here(path)
    if path.resolve() == Path.cwd():
        raise RunError(f"{path}: is the current folder; name a new one (for example {path / 'out'})")
    unfinished = path.with_name(f".{path.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with explained(path):
            unfinished.mkdir(parents=True)
            yield unfinished
            if path.is_dir():
                path.rmdir()
            unfinished.replace(path)
            _fsync_folder(path.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def sweep_unfinished(folder: Path) -> None:
    """Remove the temporary files that killed calls left below a folder; nobody else may be writing into it."""
    if isinstance(folder, ObjectPath):  # an unfinished object has no name
        return
    for path in folder.rglob(f".*{UNFINISHED}"):
        if re.fullmatch(rf"\..+\.[0-9a-f]{{8}}{re.escape(UNFINISHED)}", path.name):
            path.unlink(missing_ok=True)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal content is equal bytes."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; RunError when it is damaged (no file of ours is ever half-written)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: damaged ({error}); remove the file and run the same command again") from None


def sha256_bytes(content: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(content).hexdigest()


def sha256_json(content: Any) -> str:
    """Hex sha256 of a JSON value, independent of key order: the fingerprint of a stage's inputs."""
    return sha256_bytes(json.dumps(content, sort_keys=True, ensure_ascii=False).encode())


def check_free_space(folder: Path, min_free_mb: int) -> None:
    """RunError when less than `min_free_mb` is left where `folder` is; of a store only its bill knows that."""
    if isinstance(folder, ObjectPath):
        return
    free_mb = shutil.disk_usage(folder).free // 2**20
    if free_mb < min_free_mb:
        raise RunError(
            f"{folder}: {free_mb} MB free, engine.min_free_mb asks for {min_free_mb}; "
            "free some space and run the same command again: it goes on where it stopped"
        )


def _check_here(path: Path) -> None:
    """RunError for an address that was taken for a path of this machine, and would make a folder called `s3:`."""
    if path.parts and path.parts[0].rstrip(":") in object_store.SCHEMES and path.parts[0].endswith(":"):
        raise RunError(f"{path}: this command writes on this machine; name a folder of it, and copy that to the bucket")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a full disk, or a path that cannot be written, into a RunError with the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise RunError(
                f"{path}: no space left; nothing was half-written. "
                "Free some space and run the same command again: it goes on where it stopped"
            ) from error
        if error.errno in REFUSED:
            raise RunError(f"{path}: cannot be written ({error.strerror})") from error
        raise


def _fsync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
