"""Matches predicted cells to human ones: exact overlaps, one-to-one.

Thresholds are whole twentieths and overlaps whole pixels, so an IoU that stands exactly on a threshold
is decided by integers and not by how .55 happens to be stored.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import crops, shared_pixels, union_map

TWENTIETHS = tuple(range(10, 20))  # IoU .50, .55, ... .95
HALF = TWENTIETHS[0]


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """Pixels that T true and P predicted masks share: `intersection` and `union`, int64 (T, P)."""

    intersection: NDArray[np.int64]
    union: NDArray[np.int64]

    @property
    def iou(self) -> NDArray[np.float64]:
        """float64 (T, P)."""
        return self.intersection / self.union

    def above(self, twentieths: int) -> NDArray[np.bool_]:
        """bool (T, P): IoU strictly larger than `twentieths` / 20."""
        return 20 * self.intersection > twentieths * self.union

    def part(self, rows: NDArray[Any], columns: NDArray[Any]) -> Overlap:
        """The overlap of some true (bool or integer (T,)) with some predicted masks."""
        return Overlap(self.intersection[rows][:, columns], self.union[rows][:, columns])


def overlap(truth: Instances, predicted: Instances) -> Overlap:
    """Exact overlaps of the cells of one image; ValueError when an area is not that of its mask."""
    shared, *areas = shared_pixels(truth, predicted)
    for found, cells in zip(areas, (truth, predicted), strict=True):
        if not np.array_equal(found, cells.area):
            raise ValueError("area: expected the number of pixels of each mask, got values that do not fit their masks")
    return Overlap(shared, areas[0][:, None] + areas[1][None, :] - shared)


def gains(above: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool (P,): whether column k enlarges the maximum one-to-one matching of the columns before it.

    `above` is bool (T, P), its columns best first. The number of gains among the first k columns is the
    size of their maximum matching (augmenting paths: Kuhn 1955, Berge 1957), for every k at once.

    >>> gains(np.array([[True, True, True], [False, False, True]]))
    array([ True, False,  True])
    """
    if (above.sum(axis=1) <= 1).all():  # no true cell is claimed twice: every claim counts
        return np.asarray(above.any(axis=0))
    rows_of = [np.flatnonzero(column).tolist() for column in above.T]
    row_of: dict[int, int] = {}
    column_of: dict[int, int] = {}
    return np.array([_augment(column, rows_of, row_of, column_of) for column in range(len(rows_of))], dtype=bool)


def _augment(column: int, rows_of: list[list[int]], row_of: dict[int, int], column_of: dict[int, int]) -> bool:
    """Match one more column if a path to a free row exists, moving others aside; in place."""
    reached_from: dict[int, int] = {}
    queue = deque([column])
    while queue:
        current = queue.popleft()
        for row in rows_of[current]:
            if row in reached_from:
                continue
            reached_from[row] = current
            if row in column_of:
                queue.append(column_of[row])
                continue
            free: int | None = row
            while free is not None:
                mover = reached_from[free]
                column_of[free] = mover
                row_of[mover], free = free, row_of.get(mover)
            return True
    return False


def match(found: Overlap, twentieths: int = HALF) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(rows, columns) of the largest one-to-one matching with IoU > `twentieths` / 20.

    Among the largest it has the largest total IoU, so the mean IoU of the matched cells does not depend
    on the order of the cells.
    """
    from scipy.optimize import linear_sum_assignment

    above = found.above(twentieths)
    lone = above & (above.sum(axis=1) == 1)[:, None] & (above.sum(axis=0) == 1)[None, :]
    rows, columns = np.nonzero(lone)
    contested = above & ~lone
    if not contested.any():
        return rows, columns
    some_rows, some_columns = np.flatnonzero(contested.any(axis=1)), np.flatnonzero(contested.any(axis=0))
    inner = np.ix_(some_rows, some_columns)
    # One more match outweighs any total of IoU.
    benefit = np.where(contested[inner], len(some_rows) + 1 + found.iou[inner], 0.0)
    r, c = linear_sum_assignment(benefit, maximize=True)
    real = contested[inner][r, c]
    return np.concatenate([rows, some_rows[r[real]]]), np.concatenate([columns, some_columns[c[real]]])


def hits(predicted: Instances, truth: Instances) -> NDArray[np.bool_]:
    """bool (P,): whether a prediction is a true cell of its class at IoU > .5, each cell counted once.

    Predictions are taken by falling score, so of two masks on one cell the better scored is the hit.
    """
    found = overlap(truth, predicted)
    result = np.zeros(len(predicted), bool)
    for class_id in np.unique(predicted.class_id):
        columns = np.flatnonzero(predicted.class_id == class_id)
        columns = columns[np.argsort(-predicted.score[columns], kind="stable")]
        result[columns] = gains(found.part(truth.class_id == class_id, columns).above(HALF))
    return result


def scorable(predicted: Instances, truth: Instances) -> tuple[Instances, Instances]:
    """Predictions and human cells without what is to be ignored.

    Ignored cells of the truth (crowds, doubtful regions) are not asked for, and a prediction that lies mostly
    within them counts neither as right nor as wrong, unless it is a human cell at IoU > .5. So does COCO with
    `iscrowd` (Lin et al. 2014, cocoeval.py), which goes by the prediction's own area as well.
    """
    human = truth.in_state("human")
    if len(human) == len(truth):
        return predicted, truth
    ignored = truth.in_state("ignored")
    region = union_map(ignored)
    inside = [region[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]][crop].sum() for crop, x0, y0 in crops(predicted)]
    mostly = 2 * np.array(inside, dtype=np.int64) > predicted.area
    known = overlap(human, predicted).above(HALF).any(axis=0)
    return predicted.select(~mostly | known), human
