"""Parses and writes Kaggle's run lengths: `start length start length ...`, pixels from 1, by row or by column.

Which of the two a file means it does not say (see pixel_order.py). In both a run may go on from the end of
one line of the image to the start of the next. The work is done on runs; a bitmap is never larger than the
bounding box of its cell.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells import rle as cell_runs
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.rle import Bitmap, Crop

Order = Literal["row", "column"]

MAX_DIGITS = 15  # more than the pixels of any image have; sums stay far inside int64
_ODD_CHARACTER = re.compile(r"[^0-9 ]")
_LONG_NUMBER = re.compile(rf"[0-9]{{{MAX_DIGITS + 1}}}")


class RleError(ValueError):
    """A run-length text that is no mask; the message names the pair, counted from 1. `index`: which text of several."""

    index = 0


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of one mask: `starts` (N,) int64 from 0, rising, and `lengths` (N,) int64, with gaps between them.

    `unsorted` counts the pairs that stood before a smaller start in the text.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    unsorted: int

    @property
    def ends(self) -> NDArray[np.int64]:
        """One past the last pixel of each run, int64 (N,)."""
        return self.starts + self.lengths


def line_length(height: int, width: int, order: Order) -> int:
    """Pixels of one line of the image: a row in row order, a column in column order."""
    return width if order == "row" else height


def parse(text: str, pixels: int) -> Runs:
    """The runs of a text, sorted, for an image of so many pixels.

    Raises RleError, naming the pair: no text, an odd count of numbers, not whole numbers, a start or a length
    below 1, a run beyond the image, overlapping runs, more pairs than pixels.
    """
    text = text.strip(" ")
    if not text:
        raise RleError("the run-length text is empty")
    _check_characters(text)
    if text.count(" ") >= 2 * pixels:
        raise RleError(f"more pairs than the {pixels} pixels of the image")
    numbers = np.fromstring(text, dtype=np.int64, sep=" ")
    if len(numbers) % 2:
        raise RleError(f"{len(numbers)} numbers, expected pairs of start and length: the last start has no length")
    return _checked(numbers[0::2], numbers[1::2], pixels)


def crop_of(runs: Runs, height: int, width: int, order: Order) -> Crop:
    """The mask of runs inside an image, as a bool bitmap of its bounding box and the corner x0, y0 of that."""
    line = line_length(height, width, order)
    first_line, last_line = runs.starts // line, (runs.ends - 1) // line
    low, high = 0, line
    if (first_line == last_line).all():
        low, high = int((runs.starts % line).min()), int(((runs.ends - 1) % line).max()) + 1
    top, across = int(first_line.min()), high - low
    lines = int(last_line.max()) + 1 - top
    starts = (first_line - top) * across + runs.starts % line - low
    change = np.zeros(lines * across + 1, np.int8)
    change[starts] += 1
    change[starts + runs.lengths] -= 1
    np.cumsum(change, out=change)
    crop = change[:-1].view(np.bool_).reshape(lines, across)
    return (crop, low, top) if order == "row" else (np.ascontiguousarray(crop.T), top, low)


def decode(text: str, height: int, width: int, order: Order) -> Crop:
    """The mask of a text as a bool bitmap of its bounding box and the corner x0, y0 of that; RleError as `parse`.

    >>> decode("2 2 5 1", 2, 3, "row")
    (array([[ True,  True],
           [ True, False]]), 1, 0)
    """
    return crop_of(parse(text, height * width), height, width, order)


def encode(crop: Bitmap, x0: int, y0: int, height: int, width: int, order: Order) -> str:
    """The text of a bool (h, w) crop whose corner stands at x0, y0: pairs rising, runs as long as they can be.

    Raises ValueError when the crop does not fit in the image or holds no pixel.

    >>> encode(np.array([[True, True], [True, False]]), 1, 0, 2, 3, "row")
    '2 2 5 1'
    """
    return texts_of(masks.from_crops(height, width, [(crop, x0, y0)]), order)[0]


def texts_of(cells: Instances, order: Order) -> list[str]:
    """The text of each cell of an image, as `encode` writes it."""
    runs = masks.instances_runs(cells)
    if order == "row":
        runs = cell_runs.turned(runs, cells.height, cells.width)
    text, offsets = np.empty(32 * len(runs.starts), np.uint8), np.zeros(len(cells) + 1, np.int64)
    number_kernels().write(*runs, text, offsets)
    whole = text[: offsets[-1]].tobytes().decode("ascii")
    return [whole[first : last - 1] for first, last in pairwise(offsets.tolist())]


def cells_of(texts: Sequence[str], height: int, width: int, order: Order) -> Instances:
    """The cells of texts of one image; RleError as `parse`, with the `index` of the text."""
    runs = _runs_of(texts, height * width)
    if order == "row":
        runs = cell_runs.turned(runs, width, height)
    return masks.from_runs(height, width, runs)


def _runs_of(texts: Sequence[str], pixels: int) -> cell_runs.Runs:
    """The runs of texts; those that are not plain, rising pairs are read one by one."""
    coded = [text.strip(" ").encode() for text in texts]
    parts, first = [], 0
    while first < len(coded):
        some = coded[first:]
        text, text_offsets = np.frombuffer(b"".join(some), np.uint8), np.zeros(len(some) + 1, np.int64)
        np.cumsum([len(each) for each in some], out=text_offsets[1:])
        starts, ends = np.empty((2, len(text) // 4 + len(some)), np.int64)
        offsets = np.zeros(len(some) + 1, np.int64)
        odd = number_kernels().read(text, text_offsets, pixels, starts, ends, offsets)
        good = len(some) if odd < 0 else odd
        parts.append(cell_runs.Runs(starts[: offsets[good]], ends[: offsets[good]], offsets[: good + 1]))
        first += good
        if odd >= 0:
            try:
                found = parse(texts[first], pixels)
            except RleError as error:
                error.index = first
                raise
            parts.append(cell_runs.Runs(found.starts, found.ends, np.array([0, len(found.starts)])))
            first += 1
    return cell_runs.joined(parts)


@functools.cache
def number_kernels() -> ModuleType:
    """The compiled loops; numba is imported now."""
    from cellsemi.rounds.formats.kaggle import number_kernels

    return number_kernels


def _check_characters(text: str) -> None:
    odd = _ODD_CHARACTER.search(text)
    if odd:
        begin, end = text.rfind(" ", 0, odd.start()) + 1, text.find(" ", odd.start())
        token = text[begin : end if end >= 0 else None]
        raise RleError(f"pair {_pair_at(text, begin)}: {_short(token)} is not a whole number of 1 or more")
    long = _LONG_NUMBER.search(text)
    if long:
        raise RleError(f"pair {_pair_at(text, long.start())}: {_short(long[0])}... does not fit in any image")


def _pair_at(text: str, place: int) -> int:
    """The pair, counted from 1, that the number at a place of the text belongs to."""
    return sum(1 for _ in re.finditer("[^ ]+", text[:place])) // 2 + 1


def _short(token: str) -> str:
    return repr(token if len(token) <= 20 else f"{token[:20]}...")


def _checked(starts: NDArray[np.int64], lengths: NDArray[np.int64], pixels: int) -> Runs:
    for name, values in (("start", starts), ("length", lengths)):
        if values.min() < 1:
            raise RleError(f"pair {int(values.argmin()) + 1}: the {name} is {values.min()}, expected 1 or more")
    ends = starts + lengths - 1
    if ends.max() > pixels:
        pair = int(np.argmax(ends > pixels))
        raise RleError(
            f"pair {pair + 1}: the run {starts[pair]} {lengths[pair]} ends at pixel {ends[pair]}, "
            f"the image has {pixels}"
        )
    backwards = int((np.diff(starts) < 0).sum())
    order = np.argsort(starts, kind="stable") if backwards else np.arange(len(starts))
    overlapping = np.flatnonzero(starts[order][1:] <= ends[order][:-1])
    if len(overlapping):
        one, other = sorted(int(pair) + 1 for pair in order[overlapping[0] : overlapping[0] + 2])
        raise RleError(f"pairs {one} and {other} overlap: both hold pixel {starts[order][overlapping[0] + 1]}")
    return _joined(starts[order] - 1, ends[order], backwards)


def _joined(starts: NDArray[np.int64], ends: NDArray[np.int64], unsorted: int) -> Runs:
    """The runs with those made one that follow each other without a gap."""
    gap = np.flatnonzero(starts[1:] != ends[:-1])
    starts = starts[np.concatenate([[0], gap + 1])]
    return Runs(starts, ends[np.concatenate([gap, [len(ends) - 1]])] - starts, unsorted)
