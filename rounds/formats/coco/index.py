"""Indexes a COCO file: what it lists, and where the annotations of each image stand; not the annotations.

About 16 bytes of memory a cell: the file may be larger than memory.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.formats.shared.json_stream import Element, elements, read_element, short

Id = int | str

MAX_PIXELS = 2**31 - 1  # of an image: pycocotools counts them in 32 bits
MAX_NAME = 4096  # characters of a file name or a class name

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One element of "images", the `number`-th; `size` is (height, width), None where it is missing or not usable."""

    number: int
    image_id: Id
    file_name: str
    size: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Index:
    """The listing of a COCO file.

    `entries` are in the order of the file, `categories` lead from id to name, `used` are the ids of those that
    an annotation has; an id that stands there as a number and here as text is in both under the name of the annotation.
    `orphans` counts annotations whose image is not listed. `stamp` tells whether the file is still the same.
    """

    path: Path
    stamp: tuple[int, int]
    entries: tuple[ImageEntry, ...]
    categories: dict[Id, str]
    used: frozenset[Id]
    orphans: int
    _bounds: NDArray[np.int64]  # (entries + 1,): which part of the next three arrays belongs to an entry
    _numbers: NDArray[np.int32]
    _offsets: NDArray[np.int64]
    _lengths: NDArray[np.int32]

    def annotations(self, entries: list[int]) -> Iterator[tuple[int, dict[str, object]]]:
        """(number in the file, annotation) of the entries at these indices, in the order of the file.

        Raises DataError when the file is no longer what was indexed, ImageError, for one that is nested too deeply.
        """
        rows = np.concatenate([np.arange(self._bounds[i], self._bounds[i + 1]) for i in entries])
        rows = rows[np.argsort(self._numbers[rows])]
        places = zip(
            self._numbers[rows].tolist(), self._offsets[rows].tolist(), self._lengths[rows].tolist(), strict=True
        )
        try:
            if stamp(self.path) != self.stamp:
                raise ValueError
            with self.path.open("rb", buffering=0) as file:
                for number, offset, length in places:
                    yield number, read_element(file, offset, length)
        except RecursionError:
            place = f"{self.path.name}, annotation {number}"
            raise ImageError(place, "it is nested too deeply", "export it anew") from None
        except (OSError, ValueError):
            raise DataError(f"{self.path}: changed while it was read; run the same command again") from None


def read_index(path: Path) -> Index:
    """Read a COCO file once.

    Raises DataError, naming file, element and id, when it is not JSON, lacks images, annotations or categories,
    when an image or a category has no id or name or shares its id, for an annotation without the id of an image or
    whose category_id is not listed, and when no annotation has the id of a listed image.
    """
    listing = _Listing(path)
    readers = {"images": listing.image, "annotations": listing.annotation, "categories": listing.category}
    for element in elements(path, tuple(readers)):
        readers[element.array](element)
    return listing.index()


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of change of a file."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


class _Listing:
    """An index in the making. Annotations may stand before the images and categories that they name."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(f"{path}: no such file; data.annotations names it below data.root")
        self._path, self._stamp = path, stamp(path)
        self._entries: dict[Id, ImageEntry] = {}
        self._categories: dict[Id, str] = {}
        self._annotated: set[Id] = set()  # image ids of annotations
        self._slots: dict[Id, int] = {}  # image id -> its number by first sight, as image or in an annotation
        self._first: dict[Id, int] = {}  # category id -> index of the first annotation with it
        self._slot, self._offset, self._length = array("i"), array("q"), array("i")

    def image(self, element: Element) -> None:
        value = self._object(element, "image")
        image_id = self._id(value, "id", "image", element.number)
        if image_id in self._entries:
            self._fail("image", element.number, value, f"image {self._entries[image_id].number} has the same id")
        name = self._text(value, "file_name", "image", element.number)
        self._slots.setdefault(image_id, len(self._slots))
        self._entries[image_id] = ImageEntry(element.number, image_id, name, _size(value))

    def category(self, element: Element) -> None:
        value = self._object(element, "category")
        category_id = self._id(value, "id", "category", element.number)
        if category_id in self._categories:
            self._fail("category", element.number, value, "another category has the same id")
        self._categories[category_id] = self._text(value, "name", "category", element.number)

    def annotation(self, element: Element) -> None:
        value = self._object(element, "annotation")
        image_id = self._id(value, "image_id", "annotation", element.number)
        category_id = value.get("category_id")
        if is_id(category_id):
            self._first.setdefault(category_id, len(self._slot))
        self._annotated.add(image_id)
        self._slot.append(self._slots.setdefault(image_id, len(self._slots)))
        self._offset.append(element.offset)
        self._length.append(element.length)

    def index(self) -> Index:
        """The finished index; DataError when a category is not listed, or no annotation has the id of an image."""
        slots = np.frombuffer(self._slot, np.int32) if self._slot else np.zeros(0, np.int32)
        self._check_categories()
        place = self._places()
        entry = place[slots]
        orphans = int((entry < 0).sum())
        if orphans and orphans == len(entry):
            self._fail_unlisted(0, "image_id", "images")
        order = np.argsort(entry, kind="stable")[orphans:]
        entry = entry[entry >= 0]
        return Index(
            path=self._path,
            stamp=self._stamp,
            entries=tuple(self._entries.values()),
            categories=self._categories,
            used=frozenset(self._first),
            orphans=orphans,
            _bounds=np.concatenate([[0], np.cumsum(np.bincount(entry, minlength=len(self._entries)))]),
            _numbers=(order + 1).astype(np.int32),
            _offsets=np.array(self._offset, np.int64)[order],
            _lengths=np.array(self._length, np.int32)[order],
        )

    def _check_categories(self) -> None:
        for category_id in self._first:
            twin = _twin(category_id, self._categories, self._first)
            if twin is not None:
                self._categories[category_id] = self._categories[twin]
        unknown = [at for category_id, at in self._first.items() if category_id not in self._categories]
        if unknown:
            self._fail_unlisted(min(unknown), "category_id", "categories")

    def _places(self) -> NDArray[np.int32]:
        """int32 (slots,): the index of the entry of each image id, -1 where it is not listed."""
        place = np.full(len(self._slots), -1, np.int32)
        number = {image_id: i for i, image_id in enumerate(self._entries)}
        used = {image_id for image_id in self._slots if image_id not in number}
        for image_id, slot in self._slots.items():
            twin = _twin(image_id, number, used | (number.keys() & self._annotated))
            found = number.get(image_id) if twin is None else number[twin]
            place[slot] = -1 if found is None else found
        return place

    def _fail_unlisted(self, at: int, key: str, listing: str) -> NoReturn:
        with self._path.open("rb") as file:
            value = read_element(file, self._offset[at], self._length[at])
        self._fail("annotation", at + 1, value, f"{key} {short(value[key])} is not in {listing!r}")

    def _fail(self, what: str, number: int, value: dict[str, object], problem: str) -> NoReturn:
        raise DataError(f"{place_of(str(self._path), what, number, value)}: {problem}; correct it or export anew")

    def _object(self, element: Element, what: str) -> dict[str, object]:
        if not isinstance(element.value, dict):
            self._fail(what, element.number, {}, f"expected an object, found {short(element.value)}")
        return element.value

    def _id(self, value: dict[str, object], key: str, what: str, number: int) -> Id:
        found = value.get(key)
        if not is_id(found):
            self._fail(what, number, value, f"{key} is {short(found)}, expected a number or a name")
        return found

    def _text(self, value: dict[str, object], key: str, what: str, number: int) -> str:
        """A name that can be written to files: not empty, not endless, no half of a surrogate pair."""
        found = value.get(key)
        if not isinstance(found, str) or not found.strip() or len(found) > MAX_NAME or _SURROGATE.search(found):
            self._fail(what, number, value, f"{key} is {short(found)}, expected a name")
        return found


def place_of(file: str, what: str, number: int, value: dict[str, object]) -> str:
    """Where something stands, for messages: FILE, annotation 17 (id 123)."""
    stated = f"id {short(value['id'])}" if "id" in value else "no id"
    return f"{file}, {what} {number} ({stated})"


def _twin(value: Id, listed: Collection[Id], used: Collection[Id]) -> Id | None:
    """The listed id that is the same but for its type, 7 and "7"; None when the id itself or both are in use."""
    if value in listed:
        return None
    other: Id = str(value) if isinstance(value, int) else int(value) if value.isascii() and value.isdigit() else value
    same = str(other) == str(value)
    return other if same and other in listed and other not in used else None


def is_id(value: Any) -> TypeGuard[Id]:
    """Whether a value can be an id: a whole number or text."""
    return type(value) in (int, str)


def _size(value: dict[str, object]) -> tuple[int, int] | None:
    """(height, width) of an entry; None when they are not whole numbers, or more than MAX_PIXELS pixels."""
    sides: list[Any] = [value.get("height"), value.get("width")]
    whole = [int(v) for v in sides if type(v) in (int, float) and 1 <= v <= MAX_PIXELS and v == int(v)]
    return (whole[0], whole[1]) if len(whole) == 2 and whole[0] * whole[1] <= MAX_PIXELS else None
