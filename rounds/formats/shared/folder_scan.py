"""Scans a folder that nobody has described yet: names and heads of files, bounded in both.

Every folder that is looked into is listed whole, in order, but only the first few sub-folders are entered:
a data set with one folder an image looks the same in the first of them as in the last.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cellsemi.configs.errors import DataError
from cellsemi.rounds.formats.shared.csv_file import delimiter_of, stripped
from cellsemi.rounds.formats.shared.folder import JUNK, split_extension
from cellsemi.rounds.store.image_codec import EXTENSIONS

HEAD = 1 << 16  # bytes of a file that are read, from its start and from its end
DEPTH = 5
FOLDERS = 300  # folders that are looked into, at most
SUBFOLDERS = 24  # of each folder

TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[{}\[\]]')


@dataclass(frozen=True, slots=True)
class ScannedFolder:
    """The names in one folder, sorted. `path` is relative to the root of the scan, "." for itself."""

    path: str
    files: tuple[str, ...]
    folders: tuple[str, ...]

    @property
    def images(self) -> tuple[str, ...]:
        """The names of the image files."""
        return tuple(name for name in self.files if name.lower().endswith(EXTENSIONS))

    def stems(self) -> set[str]:
        """The names of the image files without extension."""
        return {split_extension(name)[0] for name in self.images}

    def named(self, *extensions: str) -> list[str]:
        """Paths, relative to the root, of the files with one of these extensions."""
        return [below(self.path, name) for name in self.files if name.lower().endswith(extensions)]


class FolderScan:
    """The names that a bounded walk finds below `root`, upper folders first; DataError when it cannot be read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = {seen.path: seen for seen in _walk(root)}

    def __iter__(self) -> Iterator[ScannedFolder]:
        return iter(self.folders.values())

    @property
    def top(self) -> ScannedFolder:
        """The root itself."""
        return self.folders["."]

    def within(self, path: str) -> list[ScannedFolder]:
        """The sub-folders of a folder that were looked into."""
        names = self.folders[path].folders
        return [self.folders[below(path, name)] for name in names if below(path, name) in self.folders]

    def with_images(self) -> list[ScannedFolder]:
        """The folders that hold images themselves."""
        return [seen for seen in self if seen.images]

    def find(self, *extensions: str) -> list[str]:
        """Paths of all files seen with one of these extensions."""
        return [path for seen in self for path in seen.named(*extensions)]

    def head(self, path: str) -> str:
        """The first HEAD bytes of a file as text; what is not UTF-8 is replaced, what cannot be read is empty."""
        return self._read(path, 0)

    def tail(self, path: str) -> str:
        """The last HEAD bytes of a file as text, nothing that `head` has."""
        try:
            size = (self.root / path).stat().st_size
        except OSError:
            return ""
        return self._read(path, max(HEAD, size - HEAD)) if size > HEAD else ""

    def contents(self) -> str:
        """What lies there, in words: `12 .tif, 3 .csv in 4 folders`."""
        kinds = Counter(split_extension(name)[1] or PurePosixPath(name).suffix for s in self for name in s.files)
        counts = ", ".join(f"{count} {kind or 'without extension'}" for kind, count in kinds.most_common(6))
        folders = f"{len(self.folders)} folder" + "s" * (len(self.folders) > 1)
        return f"{counts or 'no files'} in {folders} looked at"

    def _read(self, path: str, start: int) -> str:
        try:
            with (self.root / path).open("rb") as file:
                file.seek(start)
                return file.read(HEAD).decode("utf-8-sig" if not start else "utf-8", errors="replace")
        except OSError:
            return ""  # a link that leads nowhere: a rule that needs the file does not fit


def below(folder: str, name: str) -> str:
    """`folder`/`name`, where "." is no part of a path."""
    return name if folder == "." else f"{folder}/{name}"


def parent(path: str) -> str:
    """The folder of a relative path."""
    return str(PurePosixPath(path).parent)


def table_head(text: str) -> tuple[list[str], list[dict[str, str]]]:
    """The columns of the head of a CSV file and its first complete rows; nothing when it is no CSV."""
    lines = text.splitlines()
    complete = lines[:-1] if len(text) >= HEAD // 4 else lines
    if not complete:
        return [], []
    reader = csv.reader(complete, strict=True, delimiter=delimiter_of(complete[0]), skipinitialspace=True)
    try:
        rows = [stripped(row) for row in reader if row]
    except csv.Error:
        return [], []
    if not rows or len(set(rows[0])) != len(rows[0]):
        return [], []
    return rows[0], [dict(zip(rows[0], row, strict=True)) for row in rows[1:] if len(row) == len(rows[0])]


def top_level_keys(text: str) -> list[str]:
    """The keys of a JSON object, as far as the head of its text goes; [] when it is no object."""
    depth, keys = 0, []
    if not text.lstrip().startswith("{"):
        return []
    for token in TOKEN.finditer(text):
        if token[0][0] in "{[":
            depth += 1
        elif token[0][0] in "}]":
            depth -= 1
        elif depth == 1 and token[2]:
            keys.append(token[1])
    return keys


def json_strings(text: str, key: str) -> list[str]:
    """The values of `"key": "value"` in a piece of JSON, in order."""
    found = []
    for match in re.finditer(rf'"{re.escape(key)}"\s*:\s*("(?:[^"\\]|\\.)*")', text):
        try:
            found.append(str(json.loads(match[1])))
        except json.JSONDecodeError:
            continue
    return found


def common_folder(paths: Iterable[str]) -> str:
    """The deepest folder that holds all these folders."""
    parts = [PurePosixPath(path).parts for path in paths]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return str(PurePosixPath(*shared))


def _walk(root: Path) -> Iterator[ScannedFolder]:
    waiting, seen = [(".", 0)], 0
    while waiting and seen < FOLDERS:
        path, depth = waiting.pop(0)
        found = _listed(root, path)
        if found is None:
            continue
        seen += 1
        yield found
        if depth < DEPTH:
            waiting += [(below(path, name), depth + 1) for name in found.folders[:SUBFOLDERS]]


def _listed(root: Path, path: str) -> ScannedFolder | None:
    """A folder's names; None for one below the root that cannot be read."""
    try:
        entries = sorted((root / path).iterdir())
    except OSError as error:
        if path != ".":
            return None
        raise DataError(f"{root}: cannot be read ({error.strerror})") from None
    kept = [entry for entry in entries if not entry.name.startswith((".", *JUNK))]
    is_folder = {entry.name: _is_folder(entry) for entry in kept}
    names = {kind: tuple(name for name, folder in is_folder.items() if folder is kind) for kind in (False, True)}
    return ScannedFolder(path, names[False], names[True])


def _is_folder(entry: Path) -> bool:
    """Whether an entry is a folder; False for what cannot be looked at, such as a link into a closed folder."""
    try:
        return entry.is_dir()
    except OSError:
        return False
