"""Reads COCO: one JSON file with images, categories and annotations, beside a folder of images.

The file is read once to see what it lists and where; an image's annotations are read when the image is. Entries
of the same file (LIVECell has them) are one image: their annotations are joined, without those that repeat.
What Label Studio and CVAT export is COCO as well. Lin et al. 2014, https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import cast

import numpy as np

from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells.instances import Instances, State
from cellsemi.rounds.formats.base import NO_AREA, NO_PIXEL, NOTHING, Item, Loaded, Part, check_left_out, class_ids
from cellsemi.rounds.formats.coco.index import MAX_PIXELS, Id, ImageEntry, is_id, place_of, read_index
from cellsemi.rounds.formats.coco.segmentation import (
    PlaceOfCell,
    areas_of,
    is_empty,
    is_mark,
    measure,
    to_rles,
    without_marks,
)
from cellsemi.rounds.formats.shared.folder import Folder, check_fits, composed, searched, split_extension
from cellsemi.rounds.formats.shared.json_stream import short
from cellsemi.rounds.store.schemas import ImageRecord

ORPHANS = "annotations of images that the file does not list"
Numbered = tuple[int, dict[str, object]]  # an annotation and its number in the file, from 1


@dataclass(frozen=True, slots=True)
class Listed:
    """One image: its path, None where no file fits, and the indices of its entries."""

    path: str | None
    entries: list[int]


class Coco:
    """An opened COCO file; DataError when its listing is wrong."""

    def __init__(self, part: Part) -> None:
        if part.annotations is None:
            raise DataError(f"{part.root}: data.annotations is missing; it names the COCO file below data.root")
        self._part, self._file = part, part.annotations
        self._folder = Folder(part.root, part.images, "data.images")
        self._index = read_index(part.root / part.annotations)
        used = sorted(self._index.used, key=lambda category: (isinstance(category, str), category))
        names = [self._index.categories[category] for category in used]
        self.classes = tuple(dict.fromkeys(names))
        self._class_ids = dict(zip(used, class_ids(names, self.classes).tolist(), strict=True))
        self._images = self._find_images()

    @property
    def left_out(self) -> Mapping[str, int]:
        """Annotations whose image the file does not list."""
        return Counter({ORPHANS: self._index.orphans}) if self._index.orphans else NOTHING

    @property
    def notes(self) -> tuple[str, ...]:
        """That entries were joined, if any were."""
        joined = len(self._index.entries) - len(self._images)
        if not joined:
            return ()
        text = "image entries name the file of another one and were joined with it"
        return (f"{self._file}: {joined} of {len(self._index.entries)} {text}",)

    def files(self) -> dict[str, str]:
        """The COCO file and the images that it names."""
        return {self._file: "", **{image.path: "" for image in self._images if image.path is not None}}

    def items(self) -> Iterator[Item]:
        """Every image, in the order of the file; its annotations are read when it is loaded."""
        ids = {self._folder.id_of(image.path) for image in self._images if image.path is not None}
        for image in self._images:
            entry = self._index.entries[image.entries[0]]
            path = image.path or entry.file_name
            image_id = self._folder.id_of(image.path) if image.path is not None else _stand_in(entry, ids)
            yield Item(
                image_id=image_id,
                split=self._part.split,
                place=f"{self._file}, image {entry.number}",
                load=partial(self.load, image, image_id),
                cell_type=searched(self._part.data.class_pattern, path),
                group=searched(self._part.data.group_pattern, path),
            )

    def load(self, image: Listed, image_id: str) -> Loaded:
        """The record of an image with its cells.

        Raises ImageError when the image is missing, unreadable or of another size than listed, and for any of
        its annotations that is malformed.
        """
        path = image.path or self._folder.find_path(self._index.entries[image.entries[0]].file_name)
        record = self._folder.record(path, image_id, self._part.data)
        self._check_size(image, record)
        annotations = list(self._index.annotations(image.entries))
        annotations, rles, left_out = self._with_area(annotations, record)
        cells, repeated = self._cells(annotations, rles, record)
        crowds = 0 if self._part.data.crowds == "cells" else sum(value.get("iscrowd") == 1 for _, value in annotations)
        return Loaded(record.with_(instances=cells), self.classes, repeated, left_out, crowds)

    def _find_images(self) -> list[Listed]:
        found: dict[tuple[bool, str], Listed] = {}
        for i, entry in enumerate(self._index.entries):
            try:
                path = self._folder.find_path(entry.file_name)
            except ImageError:  # `load` raises it again
                key, image = (False, composed(entry.file_name)), Listed(None, [])
            else:
                key, image = (True, path), Listed(path, [])
            found.setdefault(key, image).entries.append(i)
        return list(found.values())

    def _check_size(self, image: Listed, record: ImageRecord) -> None:
        for i in image.entries:
            entry = self._index.entries[i]
            place = f"{self._file}, image {entry.number} (id {short(entry.image_id)})"
            if entry.size is None:
                problem = f"no usable width and height (whole numbers, at most {MAX_PIXELS} pixels)"
                raise ImageError(place, problem, "export it anew, with the size of each image")
            check_fits(place, "the listed size", *entry.size, record)

    def _with_area(
        self, annotations: Sequence[Numbered], record: ImageRecord
    ) -> tuple[list[Numbered], list[bytes], Mapping[str, int]]:
        """The annotations that cover a pixel, their RLEs, and how many were left out because they are marks or specks.

        ImageError for one that is malformed or lies outside the image, and when most are left out.
        """
        drawn = [each for each in annotations if not (is_mark(each[1].get("segmentation")) and _boxless(each[1]))]
        left_out = Counter({NO_AREA: len(annotations) - len(drawn)})
        for _, value in drawn:
            value["segmentation"] = without_marks(value.get("segmentation"))

        def place(i: int) -> str:
            return place_of(self._file, "annotation", *drawn[i])

        shapes = [value["segmentation"] for _, value in drawn]
        rles = to_rles(shapes, record.height, record.width, place)
        areas = areas_of(rles, record.height, record.width)
        specks = {i for i in np.flatnonzero(areas == 0).tolist() if is_empty(shapes[i])}
        left_out[NO_PIXEL] += len(specks)
        check_left_out(+left_out, len(drawn) - len(specks), f"{self._file}, image {record.image_id!r}")
        kept = [i for i in range(len(drawn)) if i not in specks]
        return [drawn[i] for i in kept], [rles[i] for i in kept], +left_out

    def _cells(
        self, annotations: Sequence[Numbered], rles: Sequence[bytes], record: ImageRecord
    ) -> tuple[Instances, int]:
        """The cells of the annotations, and how many were left out as repeated by another entry."""

        def place(i: int) -> str:
            return place_of(self._file, "annotation", *annotations[i])

        values = [value for _, value in annotations]
        classes = [self._class_of(value, place, i) for i, value in enumerate(values)]
        crowds = self._part.data.crowds
        states = [_state(value, crowds, place, i) for i, value in enumerate(values)]
        boxes, areas = measure(rles, record.height, record.width, place)
        scores = [_score(value, place, i) for i, value in enumerate(values)]
        size = record.height, record.width
        cells = Instances.build(*size, rles, boxes, areas, class_id=classes, state=states, score=scores)
        kept = _first_of_each(cells, [image for value in values if is_id(image := value["image_id"])])
        return cells if len(kept) == len(cells) else cells.select(kept), len(cells) - len(kept)

    def _class_of(self, value: dict[str, object], place: PlaceOfCell, i: int) -> int:
        category = value.get("category_id")
        if not is_id(category):
            raise ImageError(place(i), f"category_id is {short(category)}, expected a number", "correct it")
        return self._class_ids[category]


def _boxless(value: dict[str, object]) -> bool:
    """Whether the box of an annotation has no area either; a mark in a large box stands for a cell without mask."""
    box = value.get("bbox")
    sides = box[2:] if isinstance(box, list) and len(box) == 4 else [0]
    return any(type(side) in (int, float) and side < 2 for side in sides)


def _state(value: dict[str, object], crowds: str, place: PlaceOfCell, i: int) -> State:
    """The state of a cell: "ignored" for what is marked so, and for crowds unless they are cells; else "human"."""
    flags = [value.get("iscrowd"), value.get("ignore")]
    for flag in flags:
        if flag not in (None, 0, 1):
            raise ImageError(place(i), f"iscrowd or ignore is {short(flag)}, expected 0 or 1", "correct it")
    crowd, marked = (flag == 1 for flag in flags)
    return "ignored" if marked or (crowd and crowds == "ignored") else "human"


def _score(value: dict[str, object], place: PlaceOfCell, i: int) -> float:
    """The score that a tool has given its mask, 1 where there is none: a person's."""
    score = value.get("score", 1.0)
    if type(score) not in (int, float) or not 0 <= cast(float, score) <= 1:
        raise ImageError(place(i), f"score is {short(score)}, expected a number from 0 to 1", "correct it")
    return cast(float, score)


def _first_of_each(cells: Instances, entries: Sequence[Id]) -> list[int]:
    """The indices of the cells without those that an earlier entry of the image has, with class, state and mask."""
    first: dict[tuple[int, State, bytes], Id] = {}
    keys = zip(cells.class_id.tolist(), cells.state, cells.rle, strict=True)
    return [i for i, key in enumerate(keys) if first.setdefault(key, entries[i]) == entries[i]]


def _stand_in(entry: ImageEntry, taken: set[str]) -> str:
    """An id for an image without a file, which the run lists as one that cannot be used."""
    name = PurePosixPath(composed(entry.file_name.replace("\\", "/"))).name
    stem = split_extension(name)[0].replace("..", "_").replace("\0", "_").strip() or "image"
    image_id = f"{stem} (image {entry.number})" if stem in taken else stem
    taken.add(image_id)
    return image_id
