"""Matches predicted cells to human ones: exact overlaps, one-to-one.

Thresholds are whole twentieths and overlaps whole pixels, so an IoU that stands exactly on a threshold
is decided by integers and not by how .55 happens to be stored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import crops, pair_overlap, union_map
from cellsemi.rounds.cells.overlap import HALF, TWENTIETHS, Bools, Ints, Overlap, pair_kernels


def overlap(truth: Instances, predicted: Instances) -> Overlap:
    """Exact overlaps of the cells of one image; ValueError when an area is not that of its mask."""
    found, *areas = pair_overlap(truth, predicted)
    for measured, cells in zip(areas, (truth, predicted), strict=True):
        if not np.array_equal(measured, cells.area):
            raise ValueError("area: expected the number of pixels of each mask, got values that do not fit their masks")
    return found


def gains(rows: Ints, columns: Ints, level: Ints, shape: tuple[int, int], thresholds: int = len(TWENTIETHS)) -> Bools:
    """bool (P, thresholds): whether column p enlarges the largest one-to-one matching of the columns before it.

    Pairs int64 (M,) of rows and columns, the latter best first, may be matched at threshold k when their level is above
    k. `shape` is (T, P). The number of gains among the first n columns is the size of their maximum matching
    (augmenting paths: Kuhn 1955, Berge 1957), for every n at once. Only pairs above a threshold need be listed.

    >>> pairs = np.array([0, 0, 0, 1]), np.array([0, 1, 2, 2])
    >>> gains(*pairs, np.ones(4, int), (2, 3), thresholds=1)[:, 0]
    array([ True, False,  True])
    """
    gained = np.zeros((shape[1], thresholds), bool)
    pair_kernels().gains(rows, columns, level, shape[0], gained)
    return gained


def gains_of(found: Overlap, thresholds: int = len(TWENTIETHS)) -> Bools:
    """bool (P, thresholds): `gains` at the first of TWENTIETHS, where the predicted masks stand best first."""
    near = found.where(found.above(HALF))
    return gains(near.rows, near.columns, near.level, near.shape, thresholds)


def match(found: Overlap, twentieths: int = HALF) -> tuple[Ints, Ints]:
    """(rows, columns) of the largest one-to-one matching with IoU > `twentieths` / 20.

    Among the largest it has the largest total IoU, so the mean IoU of the matched cells does not depend
    on the order of the cells.
    """
    from scipy.optimize import linear_sum_assignment

    near = found.where(found.above(twentieths))
    in_row, in_column = np.bincount(near.rows, minlength=1), np.bincount(near.columns, minlength=1)
    lone = (in_row[near.rows] == 1) & (in_column[near.columns] == 1)
    rows, columns = near.rows[lone], near.columns[lone]
    if lone.all():
        return rows, columns
    contested = near.where(~lone)
    some_rows, r = np.unique(contested.rows, return_inverse=True)
    some_columns, c = np.unique(contested.columns, return_inverse=True)
    # One more match outweighs any total of IoU.
    benefit = np.zeros((len(some_rows), len(some_columns)))
    benefit[r, c] = len(some_rows) + 1 + contested.iou
    r, c = linear_sum_assignment(benefit, maximize=True)
    real = benefit[r, c] > 0
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
        result[columns] = gains_of(found.part(truth.class_id == class_id, columns), thresholds=1)[:, 0]
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
    found = overlap(human, predicted)
    known = found.where(found.above(HALF)).has_column()
    return predicted.select(~mostly | known), human
