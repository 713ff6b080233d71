"""Writes files and folders that are whole or absent: temporary name, fsync, rename; hashes; free space."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cellsemi.configs.errors import RunError

UNFINISHED = ".tmp"  # the suffix of a file while it is written
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (
    errno.EACCES, errno.EROFS, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
)  # fmt: skip


def write_bytes(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file atomically: after a crash `path` holds the old content or the new, never a part (`atomic_file`).

    Raises RunError when the disk is full or the folder cannot be written.
    """
    with atomic_file(path, durable) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write a stream to; it takes the name `path` when the block ends without an error.

    What is not `durable` is not forced to the disk: a power cut may leave an old state, or an empty file.
    Raises RunError when the disk is full or the folder cannot be written.
    """
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
    holds something in the end, is the current folder, or cannot be written, and when the disk is full.
    """
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
    """RunError when less than `min_free_mb` is left where `folder` is."""
    free_mb = shutil.disk_usage(folder).free // 2**20
    if free_mb < min_free_mb:
        raise RunError(
            f"{folder}: {free_mb} MB free, engine.min_free_mb asks for {min_free_mb}; "
            "free some space and run the same command again: it goes on where it stopped"
        )


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
