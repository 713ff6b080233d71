"""Decides from the masks whether run lengths go row after row or column after column.

A cell is compact. In a file that goes row after row its next run lies about one image width after the last,
and its runs touch from row to row; read in the other order it falls into stripes. Both can be counted
on the runs, without a bitmap. In square images the two readings are mirror images of each other and equally
compact: there the one is taken in which cells stand out from what surrounds them in the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from cellsemi.configs.errors import DataError
from cellsemi.rounds.cells.rle import Bitmap
from cellsemi.rounds.formats.kaggle.rle import Order, Runs, crop_of, line_length

NEAR = 0.1  # a step is near a line length when it differs by at most this share of it
MIN_STEPS = 8  # near steps that a decision needs
MIN_NEAR_SHARE = 0.3  # of all steps; concave cells have several runs in a line
STEP_RATIO = 4.0  # how many times more steps must be near one length than near the other
MIN_EXTRA_PARTS = 5  # parts beyond one per cell that the wrong reading must have
PARTS_RATIO = 4.0  # and how many times as many as the right one
MAX_PARTS = 3.0  # per cell; a reading with more, and few near steps, makes no cells
RING_PX = 3  # width of the surroundings of a cell
MAX_BOX_PX = 1 << 18  # cells with a larger bounding box are not compared with the image
MIN_CONTRAST_CELLS = 10
CONTRAST_RATIO = 1.5  # mean contrast of the right reading to that of the wrong one
CONTRAST_T = 4.0  # paired t statistic of the difference, over cells

Stated = Literal["auto", "row", "column"]
SETTING = "--set data.pixel_order=row|column"


@dataclass(frozen=True, slots=True)
class Cell:
    """The runs of one cell, and the size of its image in pixels."""

    runs: Runs
    height: int
    width: int

    @property
    def pieces(self) -> int:
        """Runs after those that cross line ends are cut there, in the reading that cuts more."""
        line = min(self.height, self.width)
        return int(((self.runs.ends - 1) // line - self.runs.starts // line + 1).sum())


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, float32 (H, W) grey values, and the runs of some of its cells."""

    grey: NDArray[np.float32]
    cells: Sequence[Runs]


@dataclass(frozen=True, slots=True)
class PixelOrder:
    """The order that was found or stated, and what speaks for it, in a sentence."""

    order: Order
    evidence: str


@dataclass(slots=True)
class Reading:
    """What one order makes of the sampled cells. `lines` are the line lengths that it goes by."""

    lines: set[int] = field(default_factory=set)
    cells: int = 0
    steps: int = 0
    near: int = 0  # steps that are about a line length
    runs: int = 0
    crossing: int = 0  # runs that go on in the next line
    parts: int = 0  # 8-connected

    @property
    def share(self) -> float:
        """Share of the steps that are near the line length; 0 without a step."""
        return self.near / max(self.steps, 1)

    @property
    def broken(self) -> bool:
        """Whether no cells come out of it: many parts, and steps that fit no line."""
        return self.parts > MAX_PARTS * self.cells and self.share < MIN_NEAR_SHARE

    def beats(self, other: Reading) -> bool:
        """Whether the steps, or the parts, speak clearly for this order."""
        steps = self.near >= max(MIN_STEPS, STEP_RATIO * other.near) and self.share >= MIN_NEAR_SHARE
        extra, others = self.parts - self.cells, other.parts - other.cells
        return steps or others >= max(MIN_EXTRA_PARTS, PARTS_RATIO * extra)


def decide(stated: Stated, cells: Sequence[Cell], pictures: Iterable[Picture], where: str) -> PixelOrder:
    """The order of a file, from a sample of one or more of its cells; those of oblong images decide for all.

    `pictures` are looked at only when the masks alone cannot tell. A stated order is checked against the same
    evidence. Raises DataError, with the evidence and the remedy, when that speaks clearly for the other
    order, when neither order makes cells, or when nothing tells.
    """
    telling = [cell for cell in cells if cell.height != cell.width] or cells
    row, column = read_as("row", telling), read_as("column", telling)
    evidence = _sentence(row, column)
    if stated == "auto" and row.broken and column.broken:
        raise DataError(
            f"{where}: neither pixel order makes cells ({evidence}); the run lengths belong to images of another size, "
            f"or are of another kind; if the masks are meant to be like this, state the order: {SETTING}"
        )
    found = _better(row, column)
    if found is None:
        found, contrast = _compared(pictures)
        evidence = f"{evidence}; {contrast}"
    if stated == "auto" and found is None:
        raise DataError(f"{where}: the pixel order cannot be decided ({evidence}); state it: {SETTING}")
    if stated == "auto" and found is not None:
        return PixelOrder(found, f"{found}-major: {evidence}")
    return _confirmed(stated, found, evidence, where)


def _confirmed(stated: Stated, found: Order | None, evidence: str, where: str) -> PixelOrder:
    assert stated != "auto"
    if found not in (None, stated):
        raise DataError(
            f"{where}: data.pixel_order is {stated!r}, but the masks are {found}-major ({evidence}); "
            f"take the setting out, or set it to {found!r}"
        )
    verdict = "confirmed by the data" if found else "which the data neither confirm nor refute"
    return PixelOrder(stated, f"{stated}-major as data.pixel_order says, {verdict}: {evidence}")


def read_as(order: Order, cells: Sequence[Cell]) -> Reading:
    """What an order makes of cells.

    A step goes from the middle of a run to that of the next: ends of runs move with the outline, middles little.
    It counts for the one line length that it is nearer to.
    """
    reading = Reading()
    for cell in cells:
        line = line_length(cell.height, cell.width, order)
        other = cell.height + cell.width - line
        steps = np.diff(cell.runs.starts + cell.runs.lengths / 2)
        off, off_other = abs(steps - line), abs(steps - other)
        nearer = (off < off_other) | (line == other)
        reading.lines.add(line)
        reading.cells += 1
        reading.steps += len(steps)
        reading.near += int(((off <= NEAR * line) & nearer).sum())
        reading.runs += len(cell.runs.starts)
        reading.crossing += int((cell.runs.starts // line != (cell.runs.ends - 1) // line).sum())
        reading.parts += count_parts(cell.runs, line)
    return reading


def count_parts(runs: Runs, line: int) -> int:
    """The 8-connected parts of a mask whose lines have `line` pixels, counted on its runs.

    Runs that cross line ends are cut there; runs in neighbouring lines are one part where they touch.
    """
    starts, ends = _cut_at_lines(runs, line)
    number = starts // line
    # Columns 0..line of each line, one free place after them: runs of other lines are never taken for near.
    pitch = line + 2
    left, right = starts + 2 * number, ends + 2 * number
    first = np.searchsorted(right, left + pitch, side="left")
    count = np.maximum(np.searchsorted(left, right + pitch, side="right") - first, 0)
    one = np.repeat(np.arange(len(starts)), count)
    other = np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count) + first[one]
    graph = sparse.coo_array((np.ones(len(one), np.int8), (one, other)), shape=(len(starts), len(starts)))
    parts, _ = sparse.csgraph.connected_components(graph, directed=False)
    return int(parts)


def _cut_at_lines(runs: Runs, line: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends of the runs, with those that cross line ends cut there."""
    first = runs.starts // line
    pieces = (runs.ends - 1) // line - first + 1
    owner = np.repeat(np.arange(len(pieces)), pieces)
    base = (first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * line
    return np.maximum(base, runs.starts[owner]), np.minimum(base + line, runs.ends[owner])


def _better(row: Reading, column: Reading) -> Order | None:
    if row.beats(column) == column.beats(row):
        return None
    return "row" if row.beats(column) else "column"


def _sentence(row: Reading, column: Reading) -> str:
    def lengths(reading: Reading) -> str:
        low, high = min(reading.lines), max(reading.lines)
        return f"{low}" if low == high else f"{low} to {high}"

    return (
        f"{row.share:.0%} of {row.steps:,} run steps are near the width ({lengths(row)}), "
        f"{column.share:.0%} near the height ({lengths(column)}); "
        f"{row.parts / row.cells:.2f} parts per cell read row-major, {column.parts / column.cells:.2f} column-major; "
        f"{row.crossing / row.runs:.1%} of the runs cross a line end read row-major, "
        f"{column.crossing / column.runs:.1%} column-major"
    )


# --- against the image --------------------------------------------------------------------------------


def _compared(pictures: Iterable[Picture]) -> tuple[Order | None, str]:
    """The order in which the cells stand out clearly more from their surroundings, if one does; the evidence."""
    images, found = 0, []
    for picture in pictures:
        images += 1
        row, column = contrasts(picture, "row"), contrasts(picture, "column")
        found.append(np.stack([row, column], axis=1)[np.isfinite(row) & np.isfinite(column)])
    pairs = np.concatenate(found) if found else np.zeros((0, 2))
    if not len(pairs):
        return None, "no cell could be compared with its image"
    row_mean, column_mean = pairs.mean(axis=0).tolist()
    difference = pairs[:, 0] - pairs[:, 1]
    clear = abs(row_mean - column_mean) * np.sqrt(len(pairs)) >= CONTRAST_T * difference.std()
    far = max(row_mean, column_mean) >= CONTRAST_RATIO * min(row_mean, column_mean) and row_mean != column_mean
    evidence = (
        f"the cells differ from their surroundings by {row_mean:.1f} grey values read row-major, "
        f"by {column_mean:.1f} column-major ({len(pairs)} cells of {images} images)"
    )
    if len(pairs) < MIN_CONTRAST_CELLS or not (clear and far):
        return None, evidence
    return ("row" if row_mean > column_mean else "column"), evidence


def contrasts(picture: Picture, order: Order) -> NDArray[np.float64]:
    """(N,) the difference, without its sign, of the mean grey values inside each cell and in a ring around it.

    The ring is free of other cells; NaN where nothing is left of it, or the cell is very large.
    """
    height, width = picture.grey.shape
    covered = np.zeros((height, width), bool)
    for runs in picture.cells:
        crop, x0, y0 = crop_of(runs, height, width, order)
        covered[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] |= crop
    found = [_contrast(picture.grey, covered, *crop_of(runs, height, width, order)) for runs in picture.cells]
    return np.array(found, np.float64)


def _contrast(grey: NDArray[np.float32], covered: Bitmap, crop: Bitmap, x0: int, y0: int) -> float:
    if crop.size > MAX_BOX_PX:
        return float("nan")
    grown = ndimage.binary_dilation(np.pad(crop, RING_PX), iterations=RING_PX)
    top, left = y0 - RING_PX, x0 - RING_PX
    rows = slice(max(top, 0), min(top + grown.shape[0], grey.shape[0]))
    columns = slice(max(left, 0), min(left + grown.shape[1], grey.shape[1]))
    window = grown[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    around = grey[rows, columns][window & ~covered[rows, columns]]
    inside = grey[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]][crop]
    return abs(float(inside.mean()) - float(around.mean())) if len(around) else float("nan")
