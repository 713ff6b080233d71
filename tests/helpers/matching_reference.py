"""Matching on tables of all pairs, in plain NumPy and SciPy: what the compiled loops over pairs are compared with."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.overlap import Overlap


def sparse(shared: NDArray[Any], union: NDArray[Any]) -> Overlap:
    """The Overlap of tables (T, P)."""
    rows, columns = np.nonzero(shared)
    return Overlap(shared.shape, rows, columns, shared[rows, columns], union[rows, columns])


def tables(truth: list[NDArray[Any]], predicted: list[NDArray[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels that each pair of bitmaps shares, and those in either, int64 (T, P)."""
    shape = len(truth), len(predicted)
    shared = np.array([[int((t & p).sum()) for p in predicted] for t in truth], np.int64).reshape(shape)
    union = np.array([[int((t | p).sum()) for p in predicted] for t in truth], np.int64).reshape(shape)
    return shared, union


def gains(above: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool (P,): whether column k of (T, P) enlarges the maximum one-to-one matching of the columns before it."""
    if (above.sum(axis=1) <= 1).all():
        return np.asarray(above.any(axis=0))
    rows_of = [np.flatnonzero(column).tolist() for column in above.T]
    row_of: dict[int, int] = {}
    column_of: dict[int, int] = {}
    return np.array([_augment(column, rows_of, row_of, column_of) for column in range(len(rows_of))], dtype=bool)


def _augment(column: int, rows_of: list[list[int]], row_of: dict[int, int], column_of: dict[int, int]) -> bool:
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


def match(shared: NDArray[Any], union: NDArray[Any], twentieths: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The largest one-to-one matching with IoU > `twentieths` / 20, and of those the one of largest total IoU."""
    above = 20 * shared > twentieths * union
    lone = above & (above.sum(axis=1) == 1)[:, None] & (above.sum(axis=0) == 1)[None, :]
    rows, columns = np.nonzero(lone)
    contested = above & ~lone
    if not contested.any():
        return rows, columns
    some_rows, some_columns = np.flatnonzero(contested.any(axis=1)), np.flatnonzero(contested.any(axis=0))
    inner = np.ix_(some_rows, some_columns)
    benefit = np.where(contested[inner], len(some_rows) + 1 + shared[inner] / union[inner], 0.0)
    r, c = linear_sum_assignment(benefit, maximize=True)
    real = contested[inner][r, c]
    return np.concatenate([rows, some_rows[r[real]]]), np.concatenate([columns, some_columns[c[real]]])


def hits(predicted: Instances, truth: Instances, shared: NDArray[Any], union: NDArray[Any]) -> NDArray[np.bool_]:
    """bool (P,): whether a prediction is a true cell of its class at IoU > .5, each cell counted once."""
    result = np.zeros(len(predicted), bool)
    for class_id in np.unique(predicted.class_id):
        columns = np.flatnonzero(predicted.class_id == class_id)
        columns = columns[np.argsort(-predicted.score[columns], kind="stable")]
        rows = np.flatnonzero(truth.class_id == class_id)
        part = np.ix_(rows, columns)
        result[columns] = gains(2 * shared[part] > union[part])
    return result


def tally(shared: NDArray[Any], union: NDArray[Any]) -> tuple[tuple[int, ...], float]:
    """The matches at each of the ten thresholds, and the mean IoU of those at .5."""
    rows, columns = match(shared, union, 10)
    iou = shared / union
    counts = tuple(int(gains(20 * shared > t * union).sum()) for t in range(10, 20))
    return counts, float(iou[rows, columns].mean()) if len(rows) else 0.0
