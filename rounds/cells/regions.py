"""Finds masks that are no cells but regions that hold cells: rectangles of interest, outlines of a tissue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from cellsemi.rounds.cells.instances import Instances

LARGE = 5  # times the median area of the cells of the image, at least
COVERED = 0.95  # share of a cell's area from which it counts as covered
MANY = 3  # cells that a region covers


def regions(cells: Instances, rectangles: bool) -> NDArray[np.bool_]:
    """bool (N,): masks that are LARGE and cover MANY others, or with `rectangles` are LARGE plain rectangles.

    Where all masks are rectangles none is a region by its shape. Ignored cells are neither regions nor covered.
    """
    human = np.array([state != "ignored" for state in cells.state], bool)
    found = np.zeros(len(cells), bool)
    if human.sum() < 2:
        return found
    sides = cells.bbox[:, 2:] - cells.bbox[:, :2]
    rectangle = (sides.prod(axis=1) == cells.area) & human
    rectangle &= rectangles and not rectangle[human].all()
    for i in np.flatnonzero(human & (cells.area >= LARGE * np.median(cells.area[human]))).tolist():
        found[i] = rectangle[i] or _covered(cells, i, human) >= MANY
    return found


def _covered(cells: Instances, i: int, human: NDArray[np.bool_]) -> int:
    """How many other cells the mask i covers."""
    box, boxes = cells.bbox[i], cells.bbox
    near = human & (boxes[:, :2] < box[2:]).all(axis=1) & (boxes[:, 2:] > box[:2]).all(axis=1)
    near[i] = False
    others = np.flatnonzero(near).tolist()
    if len(others) < MANY:
        return 0
    size = [cells.height, cells.width]
    inside = coco.iou(
        [{"size": size, "counts": cells.rle[j]} for j in others], [{"size": size, "counts": cells.rle[i]}], [1]
    )  # with the second one as a crowd: the share of each of the first that lies in it
    return int((np.asarray(inside) >= COVERED).sum())
