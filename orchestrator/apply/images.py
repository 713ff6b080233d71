"""Finds the images that a user names: files, folders, patterns, and names that hold brackets."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cellsemi.configs.errors import UsageError
from cellsemi.rounds.formats.shared.folder import Folder, split_extension
from cellsemi.rounds.store.image_codec import EXTENSIONS

SETTING = "the images"  # what a message about a folder calls it


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image to predict: the id that its cells get, and its path as the user named it."""

    image_id: str
    path: str


@dataclass(frozen=True, slots=True)
class Found:
    """The images of a call, sorted by id; `passed_over` counts files of folders that are no images, by extension."""

    images: tuple[ImageFile, ...]
    passed_over: Counter[str] = field(default_factory=Counter)


def find_images(names: Sequence[str]) -> Found:
    """The images that some names stand for.

    A name is first taken as it is, so that `A01[1].tif` is that file; then as a pattern (`plates/*.tif`, `**`). Of a
    folder every image below it is taken. The id of an image is its name without extension, with its folders where
    that is not distinct. UsageError for a name that stands for nothing, and when no image is found at all.
    """
    passed_over: Counter[str] = Counter()
    paths: dict[tuple[str, ...], str] = {}  # by their parts, so that a file that is named twice is taken once
    for name in names:
        for place in _places(name):
            for path in _files(place, passed_over):
                paths.setdefault(_parts(path), path)
    if not paths:
        raise UsageError(f"{', '.join(names)}: no images ({' '.join(EXTENSIONS)})")
    return Found(tuple(sorted(_named(paths), key=lambda image: image.image_id)), passed_over)


def _places(name: str) -> list[Path]:
    if Path(name).exists():
        return [Path(name)]
    matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []  # noqa: PTH207 - may be absolute
    if not matches:
        raise UsageError(f"{name}: no such file or folder" + (", and no file fits the pattern" * glob.has_magic(name)))
    return [Path(match) for match in matches]


def _files(place: Path, passed_over: Counter[str]) -> Iterator[str]:
    """The image files of a place; a file that was named itself is taken whatever its extension."""
    if place.is_file():
        yield str(place)
        return
    everything = Folder(place, ".", SETTING, ("",)).paths
    images = [path for path in everything if path.lower().endswith(EXTENSIONS)]
    passed_over.update(Path(path).suffix.lower() or "no extension" for path in set(everything) - set(images))
    yield from (str(place / path) for path in images)


def _parts(path: str) -> tuple[str, ...]:
    """The parts of a path from the root on."""
    return Path(os.path.normpath(Path(path).absolute())).parts[1:]


def _named(paths: Mapping[tuple[str, ...], str]) -> Iterator[ImageFile]:
    """Each path with an id of its own: as few of its last parts as tell it from the others."""
    stems = {parts: (*parts[:-1], split_extension(parts[-1])[0]) for parts in paths}
    twins = Counter(stems.values())  # a.png and a.tif of one folder keep their extensions
    left = {parts: parts if twins[stem] > 1 else stem for parts, stem in stems.items()}
    taken: set[str] = set()
    for length in range(1, max(map(len, paths)) + 1):
        ids = {parts: "__".join(name[-length:]) for parts, name in left.items()}
        counts = Counter(ids.values())
        for parts in [parts for parts, image_id in ids.items() if counts[image_id] == 1 and image_id not in taken]:
            yield ImageFile(ids[parts], paths[parts])
            taken.add(ids[parts])
            del left[parts]
    if left:
        raise UsageError(f"{', '.join(paths[parts] for parts in left)}: these names cannot be told apart; rename one")
