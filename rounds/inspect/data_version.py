"""Gives a folder of data a version: one hash of all its files, and a list that says later which of them changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cellsemi.configs.errors import UsageError
from cellsemi.rounds.store import files

BLOCK = 1 << 20  # bytes that are read at once


@dataclass(frozen=True, slots=True)
class DataVersion:
    """The hex sha256 of each file of a folder, by its path in it with `/`, and the bytes of all of them."""

    hashes: Mapping[str, str]
    size_bytes: int

    @property
    def listing(self) -> str:
        """A line `HASH  PATH` for each file, in the order of the paths' bytes: what sha256sum writes and checks."""
        return "".join(f"{self.hashes[path]}  {path}\n" for path in sorted(self.hashes, key=str.encode))

    @property
    def version(self) -> str:
        """The hex sha256 of the listing: the same for the same files, wherever the folder lies."""
        return files.sha256_bytes(self.listing.encode())

    def changes_since(self, before: Mapping[str, str]) -> list[str]:
        """What differs from earlier hashes, a sentence for each file, in the order of the paths."""
        found = []
        for path in sorted(self.hashes.keys() | before.keys(), key=str.encode):
            if path not in before:
                found.append(f"{path} is new")
            elif path not in self.hashes:
                found.append(f"{path} is gone")
            elif before[path] != self.hashes[path]:
                found.append(f"{path} has changed")
        return found


def data_version(folder: Path, progress: Callable[[int, int], None] = lambda done, of: None) -> DataVersion:
    """The version of all files below a folder; hidden files and folders, and links out of it, count as others do.

    `progress(done, of)` is called after each file. UsageError when the folder is none, or a name holds a line break.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: not a folder; name the folder that holds the data")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes, size = {}, 0
    for count, path in enumerate(paths, start=1):
        name = path.relative_to(folder).as_posix()
        if "\n" in name or "\\" in name:
            raise UsageError(f"{folder}: a name with a line break or a backslash cannot be listed: {name!r}")
        hashes[name] = _sha256(path)
        size += path.stat().st_size
        progress(count, len(paths))
    return DataVersion(hashes, size)


def read_listing(path: Path) -> dict[str, str]:
    """The hashes of a listing; UsageError, naming the line, when it is none."""
    if not path.is_file():
        raise UsageError(f"{path}: no such list; `cellsemi data version FOLDER --out {path}` writes one")
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        value, separator, name = line.partition("  ")
        if not separator or len(value) != hashlib.sha256().digest_size * 2:
            raise UsageError(f"{path}, line {number}: expected a sha256, two blanks and a path, got {line!r}")
        found[name] = value
    return found


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()
