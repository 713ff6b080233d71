"""Counts the files of a data set that nothing reads, each kind with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cellsemi.configs.data import DataConfig
from cellsemi.configs.formats import ANNOTATION_EXTENSIONS
from cellsemi.rounds.datasets.open import Opened
from cellsemi.rounds.formats.shared.folder import JUNK, split_extension
from cellsemi.rounds.storage.object_path import ObjectPath
from cellsemi.rounds.store import files
from cellsemi.rounds.store.image_codec import EXTENSIONS

# Pictures of microscopes, cameras and the web in formats that are not read.
PICTURES = (
    ".czi", ".dcm", ".dv", ".gif", ".heic", ".ims", ".jp2", ".lif", ".lsm", ".mrxs", ".nd2", ".ndpi", ".oib", ".oif",
    ".pgm", ".ppm", ".scn", ".svs", ".tga", ".vsi", ".webp",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Files that are not read: how many, why, and the first of them, by its path below the root of the data set."""

    count: int
    reason: str
    first: str


def passed_over(data: DataConfig, opened: Opened) -> tuple[PassedOver, ...]:
    """What lies below data.root and is not read, the largest kind first; nothing where the data set has no root."""
    if data.root is None or not files.place(data.root).is_dir():
        return ()
    known = {path: why for reader in opened.readers for path, why in reader.files().items()}
    known |= dict.fromkeys(opened.pool.values(), "")
    found: dict[str, list[str]] = {}
    for path in _paths(files.place(data.root)):
        reason = known[path] if path in known else _reason(files.place(data.root), path)
        if reason:
            found.setdefault(reason, []).append(path)
    kinds = [PassedOver(len(paths), reason, min(paths)) for reason, paths in found.items()]
    return tuple(sorted(kinds, key=lambda kind: (-kind.count, kind.reason)))


def _paths(root: Path) -> Iterator[str]:
    """The files below a folder, linked folders not entered; a folder that cannot be read ends with `/`."""
    if isinstance(root, ObjectPath):
        yield from (path.relative_to(root).as_posix() for path in root.rglob("*"))
        return
    failed: list[str] = []
    for folder, _, found in os.walk(root, onerror=lambda error: failed.append(str(error.filename))):
        below = PurePosixPath(Path(folder).relative_to(root).as_posix())
        yield from (str(below / name) for name in found)
    yield from (f"{Path(path).relative_to(root).as_posix()}/" for path in failed)


def _reason(root: Path, path: str) -> str:
    """Why a file that no reader knows is not read."""
    name, extension = PurePosixPath(path).name, PurePosixPath(path).suffix.lower()
    known = split_extension(name)[1]
    images = "images that nothing lists or pairs with annotations (data.images.unlabelled takes such)"
    rules = (
        (path.endswith("/"), "folders that cannot be read"),
        (not _leads_somewhere(root / path), "links that lead nowhere"),
        (_is_hidden(path), "hidden files, and what archives of macOS hold"),
        (known in EXTENSIONS, images),
        (known in ANNOTATION_EXTENSIONS, f"{known} files that no image has as its annotations"),
        (extension in PICTURES, f"{extension} pictures, a kind that is not read: convert them to TIFF or PNG"),
        (not extension, "files without an extension"),
    )
    return next((why for applies, why in rules if applies), f"{extension} files, neither image nor annotations")


def _leads_somewhere(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", *JUNK)) for part in PurePosixPath(path).parts)
