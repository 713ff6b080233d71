"""Defines Overlap: the pairs of masks of one image that share pixels, and how many. What shares none is not listed."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.rle import Runs

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

TWENTIETHS = tuple(range(10, 20))  # IoU .50, .55, ... .95
HALF = TWENTIETHS[0]


@functools.cache
def pair_kernels() -> ModuleType:
    """The compiled loops; numba is imported now."""
    from cellsemi.rounds.cells import pair_kernels

    return pair_kernels


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """The M pairs of one of T true and one of P predicted masks that share pixels; `shape` is (T, P).

    `rows` and `columns`, int64 (M,), name the true and the predicted mask; pairs stand by row, then by column. `shared`
    and `union`, int64 (M,), count pixels.
    """

    shape: tuple[int, int]
    rows: Ints
    columns: Ints
    shared: Ints
    union: Ints

    @property
    def iou(self) -> NDArray[np.float64]:
        """float64 (M,)."""
        return self.shared / self.union

    @property
    def level(self) -> Ints:
        """int64 (M,): above how many of TWENTIETHS the IoU is."""
        reached = -(-20 * self.shared // self.union)
        return np.asarray(np.clip(reached - HALF, 0, len(TWENTIETHS)))

    def above(self, twentieths: int) -> Bools:
        """bool (M,): IoU strictly larger than `twentieths` / 20, 0 to 20."""
        return 20 * self.shared > twentieths * self.union

    def where(self, pairs: Bools) -> Overlap:
        """The same masks with some of the pairs, bool (M,)."""
        return Overlap(self.shape, self.rows[pairs], self.columns[pairs], self.shared[pairs], self.union[pairs])

    def iou_of(self, rows: Ints, columns: Ints) -> NDArray[np.float64]:
        """float64 (K,): the IoU of pairs that are among those listed."""
        key = self.rows * self.shape[1] + self.columns  # rising
        return np.asarray(self.iou[np.searchsorted(key, rows * self.shape[1] + columns)])

    def part(self, rows: NDArray[Any], columns: NDArray[Any]) -> Overlap:
        """The overlap of some true (bool (T,) or distinct integers) with some predicted masks, in their order."""
        (of_row, n_rows), (of_column, n_columns) = _places(rows, self.shape[0]), _places(columns, self.shape[1])
        kept = self.where((of_row[self.rows] >= 0) & (of_column[self.columns] >= 0))
        new_rows, new_columns = of_row[kept.rows], of_column[kept.columns]
        order = np.lexsort((new_columns, new_rows))
        shape = n_rows, n_columns
        return Overlap(shape, new_rows[order], new_columns[order], kept.shared[order], kept.union[order])

    def turned(self) -> Overlap:
        """The same pairs with the predicted masks as rows."""
        order = np.lexsort((self.rows, self.columns))
        pairs = (each[order] for each in (self.columns, self.rows, self.shared, self.union))
        return Overlap((self.shape[1], self.shape[0]), *pairs)

    def has_row(self) -> Bools:
        """bool (T,): whether a true mask is in a pair."""
        return np.bincount(self.rows, minlength=self.shape[0]) > 0

    def has_column(self) -> Bools:
        """bool (P,): whether a predicted mask is in a pair."""
        return np.bincount(self.columns, minlength=self.shape[1]) > 0

    def best(self) -> tuple[Ints, NDArray[np.float64]]:
        """Of each true mask the predicted one with the largest IoU, int64 (T,), and that IoU; of equal ones the first.

        -1 and 0 where it shares no pixel with any.
        """
        found, best = np.full(self.shape[0], -1, np.int64), np.zeros(self.shape[0])
        iou = self.iou
        order = np.lexsort((-self.columns, iou))  # what is written last stays
        found[self.rows[order]], best[self.rows[order]] = self.columns[order], iou[order]
        return found, best


def _places(chosen: NDArray[Any], count: int) -> tuple[Ints, int]:
    """The new index of each of `count` masks, -1 for one that is not chosen, and how many are."""
    index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
    places = np.full(count, -1, np.int64)
    places[index] = np.arange(len(index))
    return places, len(index)


Masks = tuple[Runs, NDArray[np.int32]]  # of one image, and their boxes (N, 4)


def overlap_of_runs(first: Masks, second: Masks, height: int, width: int) -> Overlap:
    """The overlap of masks of one image of this size."""
    (runs, boxes), (others, other_boxes) = first, second
    rows, columns, shared = pair_kernels().find_pairs(*runs, boxes, *others, other_boxes, height, width)
    union = runs.area()[rows] + others.area()[columns] - shared
    return Overlap((len(boxes), len(other_boxes)), rows, columns, shared, union)
