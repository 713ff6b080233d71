"""Defines what a data format offers: a reader lists the images of a data set and loads one when asked to.

A reader checks its listing whole before an image is opened: what is wrong there is a DataError that names
file, row and remedy, and stops the import. What is wrong with one image or its annotation is an ImageError
out of `load`, which the caller quarantines and counts. Nothing is left out without either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from cellsemi.configs.data import DataConfig, Place, Split
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import files
from cellsemi.rounds.store.schemas import ImageRecord

IMAGE_CLASS: tuple[str, ...] = ()  # Loaded.classes of formats that do not say what a cell is
REGION = "Region*"  # QuPath's class of regions of interest: they hold cells
UNCLASSIFIED = "unclassified"  # the class of cells without one, where others of their file have one
NOTHING: Mapping[str, int] = MappingProxyType({})
NO_AREA = "annotations without an area (points, lines, rings of one or two points)"
NO_PIXEL = "annotations that cover no pixel (specks, empty masks)"


class FileCells(NamedTuple):
    """What an annotation file holds: its cells, the class names that they index (() for none), and what was left out.

    `left_out` counts annotations by the reason, in words. `regions` are those of QuPath's class REGION, which are no
    cells and stand in `left_out`, too.
    """

    cells: Instances
    classes: tuple[str, ...] = IMAGE_CLASS
    left_out: Mapping[str, int] = NOTHING
    regions: Instances | None = None


def check_left_out(left_out: Mapping[str, int], kept: int, path: str) -> None:
    """ImageError when most annotations of a file have no area: cells marked by points are not to be background."""
    count = sum(left_out.values())
    if count > kept:
        what = "; ".join(f"{number} {reason}" for reason, number in left_out.items())
        problem = f"most of its annotations cannot be cells: {what}; {kept} can"
        raise ImageError(path, problem, "annotate the outlines of the cells, or delete the marks and export anew")


@dataclass(frozen=True, slots=True)
class Loaded:
    """One image as its data set has it: `record.instances.class_id` is an index of `classes`.

    `record.split` is not read: the item has it. With `classes` empty the cells have no class of their own
    (`class_id` 0) and take that of the image, or the only one there is. Cells in the state "ignored" (COCO's
    crowds) are neither learnt nor scored; all others are "human". `repeated` counts cells that were left out
    because the same image stands in the listing twice, with the same mask; `left_out` counts annotations that are
    no cells, by the reason; `crowds` counts the ignored cells that are COCO's crowds; `regions` as in
    `FileCells`.
    """

    record: ImageRecord
    classes: tuple[str, ...] = IMAGE_CLASS
    repeated: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    crowds: int = 0
    regions: Instances | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One image that a data set lists.

    `split` is None where the data does not say it (never for unlabelled images); `place` is where the
    listing names it, for messages ("train.csv, line 7"); `cell_type` is the class of the whole image, in the
    words of the data set. `load` raises ImageError.
    """

    image_id: str
    split: Split | None
    place: str
    load: Callable[[], Loaded]
    cell_type: str | None = None
    group: str | None = None


class Reader(Protocol):
    """An opened data set, or one part of it."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The class names that the listing tells, () when it tells none, None when only the files know."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found out and a person should know, a sentence each: the pixel order and its evidence."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """Annotations of the listing that belong to no image, by the reason."""

    def items(self) -> Iterable[Item]:
        """Every image, in a fixed order."""

    def files(self) -> Mapping[str, str]:
        """The files that the data set knows, by their paths below its root: "" for one that is read, or why not."""


@dataclass(slots=True)
class Exported:
    """What an export wrote. `losses` counts what the format cannot say, by what was lost, in plain words.

    Cells and pixels are never lost without standing in it: "pixels given to a higher-scored cell".
    """

    images: int = 0
    cells: int = 0
    files: list[str] = field(default_factory=list)
    losses: Counter[str] = field(default_factory=Counter)


class Writer(Protocol):
    """Writes records, one in memory at a time, to a file or into a new folder.

    The records hold only cells to be written: "ignored" ones are written as such where the format knows it
    (COCO's crowds), else left out and counted. `image` may be None. Files are whole or absent.
    """

    def __call__(self, records: Iterable[ImageRecord], out: Path, classes: Sequence[str]) -> Exported: ...


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a data set: the folders and the file of one split, below `root`.

    `split` is None for annotated images whose split is still to be drawn.
    """

    data: DataConfig
    root: Path
    split: Split | None
    images: str
    masks: str
    annotations: str | None


def parts_of(data: DataConfig) -> list[Part]:
    """The annotated parts that a config names: `labelled`, and val and test where they have places of their own.

    A setting that gives one place for all gives it to each part.
    """
    places: list[Place | None] = [data.images, data.masks, data.annotations]
    named = {split for place in places if isinstance(place, dict) for split in place} - {"unlabelled"}
    annotated: tuple[Split, ...] = ("labelled", "val", "test")
    splits = [split for split in annotated if split in named] or [annotated[0]]
    complete = {"val", "test"} <= named
    return [
        Part(
            data=data,
            root=root_of(data),
            split=split if split != "labelled" or complete else None,
            images=at(data.images, split) or ".",
            masks=at(data.masks, split) or ".",
            annotations=at(data.annotations, split),
        )
        for split in splits
    ]


def at(place: Place | None, split: Split) -> str | None:
    """The place of a split; `labelled` speaks for val and test that are not named."""
    if not isinstance(place, dict):
        return place
    return place.get(split) or (place.get("labelled") if split != "unlabelled" else None)


def root_of(data: DataConfig) -> Path:
    """The folder of the data set; DataError when it is not named or not there."""
    if data.root is None:
        raise DataError("data.root is missing: `--set data.root=FOLDER` names the folder of the data set")
    root = files.place(data.root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; `--set data.root=FOLDER` names the data set")
    return root


def class_ids(names: Iterable[str], classes: tuple[str, ...]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """int32 (N,): the index of each name in `classes`."""
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[name] for name in names], dtype=np.int32)
