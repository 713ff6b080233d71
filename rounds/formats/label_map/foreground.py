"""Tells a mask of foreground, or of classes, from a label map that numbers the cells."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

MANY_PIECES = 3  # so many large pieces of one value are no cell that something else covers in part
SMALL_PX = 9  # pieces of fewer pixels are no cells
LARGE_PIECE = 0.2  # a piece of this share of the largest one's area is large; smaller ones are specks
FAR = 0.5  # two pieces whose boxes are apart by this share of the larger one's side are far apart

Box = tuple[slice, ...]

SPARSE = 16  # rows and columns from one that is looked at first to the next

_AROUND = np.ones((3, 3), bool)  # pixels that share but a corner are one piece


class Foreground(NamedTuple):
    """A value that stands for more than one cell, and the number of its large pieces."""

    value: int
    pieces: int


def foreground(labels: NDArray[np.integer[Any]]) -> Foreground | None:
    """The value of a (H, W) map that stands for several cells; None when each value may be one cell.

    Looked at are maps of one to three values (foreground, or classes, beside the background 0): a value with three
    large pieces is no cell, nor is the only value with two that are far apart (of several cells one may cover the
    middle of another). Where the largest value of the type is the only one, as in masks of 0 and 255, any second piece
    tells. Maps of more values number their cells.
    """
    values = _few_values(labels)
    if values in ([255], [65535]):
        count = int(ndimage.label(labels)[1])
        return Foreground(values[0], count) if count > 1 else None
    for value in values:
        pieces = _large_pieces(labels == value)
        if len(pieces) >= MANY_PIECES or (len(values) == 1 and len(pieces) == 2 and _far_apart(*pieces)):
            return Foreground(value, len(pieces))
    return None


def _few_values(labels: NDArray[np.integer[Any]]) -> list[int]:
    """The values beside 0, when there are at most three; else nothing."""
    if len(np.unique(labels[::SPARSE, ::SPARSE])) > 4:
        return []
    found: list[int] = []
    left = labels[labels != 0]
    while len(left) and len(found) < 4:
        found.append(int(left[0]))
        left = left[left != found[-1]]
    return sorted(found) if len(found) < 4 else []


def _large_pieces(mask: NDArray[np.bool_]) -> list[Box]:
    pieces, _ = ndimage.label(mask, _AROUND)
    areas = np.bincount(pieces.ravel())[1:]
    boxes = ndimage.find_objects(pieces)
    return [box for box, area in zip(boxes, areas, strict=True) if area >= max(SMALL_PX, LARGE_PIECE * areas.max())]


def _far_apart(one: Box, other: Box) -> bool:
    """Whether the gap between two boxes is wide for their size."""
    gap = max(max(a.start, b.start) - min(a.stop, b.stop) for a, b in zip(one, other, strict=True))
    side = max(part.stop - part.start for box in (one, other) for part in box)
    return bool(gap >= FAR * side)
