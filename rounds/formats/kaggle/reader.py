"""Reads Kaggle's CSV files of run lengths: a row per cell, beside a folder of images.

    id,annotation,width,height,cell_type,sample_id,...   Sartorius, row-major
    ImageId,EncodedPixels                                DSB2018 (stage1_train_labels.csv), column-major
    id,predicted                                         a submission

A row without run lengths says that its image has no cell; it is then the only row of that image. The rows of
an image need not stand together. The index keeps where the rows are, not what they say: they are read again,
image by image.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.base import NOTHING, Item, Loaded, Part, class_ids
from cellsemi.rounds.formats.kaggle import pixel_order
from cellsemi.rounds.formats.kaggle.index import ImageRows, index
from cellsemi.rounds.formats.kaggle.pixel_order import Cell, Picture
from cellsemi.rounds.formats.kaggle.rle import Order, RleError, Runs, cells_of, parse
from cellsemi.rounds.formats.shared.csv_file import CsvFile
from cellsemi.rounds.formats.shared.folder import Folder, check_fits, searched
from cellsemi.rounds.store.image_codec import grey

SAMPLE_IMAGES = 32  # that the pixel order is decided from
SAMPLE_CELLS = 64  # of each
SAMPLE_TEXT = 1 << 16  # characters of a mask; longer ones are not sampled
SAMPLE_PIECES = 1 << 14  # lines that its runs may go over
COMPARED_IMAGES = 16  # decoded where the masks alone do not tell it
COMPARED_CELLS = 24  # of each

T = TypeVar("T")


class RleCsv:
    """An opened CSV of run lengths and its folder of images.

    Raises DataError, naming file, line and remedy, when the file is no such CSV, rows of one image contradict
    each other, or the pixel order cannot be decided; ImageError out of `load` for a wrong mask or image.
    """

    left_out = NOTHING

    def __init__(self, part: Part) -> None:
        assert part.annotations is not None
        self._part, self._name = part, part.annotations
        self._file = CsvFile(part.root / part.annotations, part.annotations)
        self._folder = Folder(part.root, part.images, "data.images")
        self._columns, self._entries, self.classes = index(self._file, part.data)
        self._paths = self._found()
        self._order, notes = self._tell_order()
        self.notes = (*notes, *self._unlisted())

    def files(self) -> dict[str, str]:
        """The CSV and the images that it names."""
        return {self._name: "", **dict.fromkeys(self._paths.values(), "")}

    def items(self) -> Iterator[Item]:
        """Every image that the file names, in the order of its first rows."""
        data = self._part.data
        for entry in self._entries:
            path = self._paths.get(entry.image_id, entry.image_id)
            stated = "" if entry.mixed else entry.cell_class
            cell_type = stated or (None if entry.mixed else searched(data.class_pattern, path))
            group = entry.group or searched(data.group_pattern, path)
            load = partial(self.load, entry)
            yield Item(entry.image_id, self._part.split, self._place(entry.lines[0]), load, cell_type, group)

    def load(self, entry: ImageRows) -> Loaded:
        """An image with the cells of its rows; ImageError when it is missing, or a mask does not fit it."""
        path = self._folder.find_id(entry.image_id)
        record = self._folder.record(path, entry.image_id, self._part.data)
        if entry.size:
            check_fits(self._place(entry.lines[0]), "the size in the row", *entry.size, record)
        height, width = record.height, record.width
        if entry.empty:
            return Loaded(record.with_(instances=Instances.empty(height, width)))
        column = self._columns.cell_class
        rows = list(self._rows(entry))
        names = [] if column is None else [values[column] for _, values in rows]
        try:
            cells = cells_of([values[self._columns.rle] for _, values in rows], height, width, self._order)
        except RleError as error:
            place = self._place(rows[error.index][0])
            raise ImageError(place, str(error), "correct the row, or take out the rows of its image") from None
        instances = cells.with_(state="human")
        if not entry.mixed:
            return Loaded(record.with_(instances=instances))
        classes = tuple(sorted(set(names)))
        return Loaded(record.with_(instances=instances.with_(class_id=class_ids(names, classes))), classes)

    def _rows(self, entry: ImageRows, picks: Sequence[int] | None = None) -> Iterator[tuple[int, list[str]]]:
        """Line and values of the rows of an image (or of those picked), read again."""
        chosen = range(len(entry.lines)) if picks is None else picks
        places = [(entry.offsets[i], entry.lines[i]) for i in chosen]
        for line, values in self._file.read_at(places):
            if len(values) != self._columns.count or values[self._columns.image] != entry.image_id:
                raise ImageError(self._place(line), "the file has changed since it was listed", "run the command again")
            yield line, values

    def _place(self, line: int) -> str:
        return f"{self._name}, line {line}"

    def _found(self) -> dict[str, str]:
        """Image id -> path, of the images that are there; DataError when two ids lead to one file."""
        found: dict[str, str] = {}
        lines: dict[str, int] = {}
        for entry in self._entries:
            try:
                path = self._folder.find_id(entry.image_id)
            except ImageError:
                continue  # `load` raises it again
            first = lines.setdefault(path, entry.lines[0])
            if first != entry.lines[0]:
                raise DataError(
                    f"{self._name}: the ids of lines {first} and {entry.lines[0]} are both {path}; use one id"
                )
            found[entry.image_id] = path
        return found

    def _unlisted(self) -> list[str]:
        count = len(self._folder.paths) - len(self._paths)
        if not count:
            return []
        images = "1 image" if count == 1 else f"{count:,} images"
        return [
            f"{images} in {self._folder.name} without a row in {self._name} are not used: list them, "
            "or name a folder of theirs data.images.unlabelled"
        ]

    # --- pixel order ----------------------------------------------------------------------------------

    def _tell_order(self) -> tuple[Order, list[str]]:
        """The pixel order and notes about it, from cells spread over the file."""
        stated = self._part.data.pixel_order
        filled = [entry for entry in self._entries if not entry.empty]
        oblong = [entry for entry in filled if entry.size and entry.size[0] != entry.size[1]]
        entries = spread(oblong or filled, SAMPLE_IMAGES)
        cells, problems = self._sample(entries)
        if cells:
            order = pixel_order.decide(stated, cells, self._pictures(entries), self._name)
            return order.order, [f"{self._name}: {order.evidence}", *_unsorted(cells, self._name)]
        if problems and stated == "auto":
            raise DataError(
                f"{self._name}: the pixel order cannot be decided, no sampled mask can be read; the first problem: "
                f"{problems[0]}; state it: {pixel_order.SETTING}"
            )
        return ("row" if stated == "auto" else stated), []

    def _sample(self, entries: Sequence[ImageRows]) -> tuple[list[Cell], list[str]]:
        """Cells of these images, and what is wrong with those that cannot be taken."""
        cells: list[Cell] = []
        problems: list[str] = []
        for entry in entries:
            try:
                height, width = entry.size or self._grey(entry).shape[:2]
            except ImageError as error:
                problems.append(str(error))
                continue
            for line, text in self._texts(entry, SAMPLE_CELLS):
                try:
                    cells.append(_sampled(text, height, width, self._part.data.max_pixels))
                except RleError as error:
                    problems.append(f"{self._place(line)}: {error}")
        return cells, problems

    def _pictures(self, entries: Sequence[ImageRows]) -> Iterator[Picture]:
        """Images with some of their cells. What cannot be read is passed over here, `load` reports it."""
        for entry in spread(entries, COMPARED_IMAGES):
            try:
                pixels = self._grey(entry)
            except ImageError:
                continue
            height, width = pixels.shape
            found: list[Runs] = []
            for _, text in self._texts(entry, COMPARED_CELLS):
                with contextlib.suppress(RleError):
                    found.append(_sampled(text, height, width, self._part.data.max_pixels).runs)
            yield Picture(pixels, found)

    def _texts(self, entry: ImageRows, count: int) -> Iterator[tuple[int, str]]:
        """Line and run lengths of some rows of an image, spread over them."""
        picks = spread(range(len(entry.lines)), count)
        for line, values in self._rows(entry, picks):
            yield line, values[self._columns.rle]

    def _grey(self, entry: ImageRows) -> NDArray[np.float32]:
        path = self._folder.find_id(entry.image_id)
        return grey(self._folder.pixels(path, self._part.data)[0])


def spread(values: Sequence[T], count: int) -> list[T]:
    """At most `count` of the values, at equal distances, in their order."""
    step = max(1.0, len(values) / count)
    return [values[int(i * step)] for i in range(min(count, len(values)))]


def _sampled(text: str, height: int, width: int, max_pixels: int) -> Cell:
    """A cell for the evidence; RleError when it is wrong, or takes too long to sample."""
    if height * width > max_pixels:
        raise RleError(f"an image of {width}x{height} pixels, data.max_pixels is {max_pixels}")
    if len(text) > SAMPLE_TEXT:
        raise RleError(f"{len(text):,} characters, masks of more than {SAMPLE_TEXT:,} are not sampled")
    cell = Cell(parse(text, height * width), height, width)
    if cell.pieces > SAMPLE_PIECES:
        raise RleError(f"{cell.pieces:,} runs and line ends, masks of more than {SAMPLE_PIECES:,} are not sampled")
    return cell


def _unsorted(cells: Sequence[Cell], name: str) -> list[str]:
    count = sum(cell.runs.unsorted > 0 for cell in cells)
    note = f"{name}: {count:,} of {len(cells):,} sampled masks have pairs that are not sorted; they are read sorted"
    return [note] if count else []
