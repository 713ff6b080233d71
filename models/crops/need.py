"""Says which pseudo-labelled images hold what the human labels lack.

The kind of a cell is its class and its size. If a learned cell of this kind were drawn from the human and the
pseudo-labels with equal chance, the need of the kind is the probability that it came from the pseudo-labels: 0 where
only people drew such cells, .5 where both have the same share, 1 where only pseudo-labels have them. It is the ratio of
densities by which a sample is weighed to look like another one (Shimodaira 2000, doi:10.1016/S0378-3758(00)00115-4),
bounded: no image is drawn without end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellsemi.models.crops.sampling import label_kinds, learnt_cells
from cellsemi.rounds.store.shards import count_rows_unread

SIZE_STEP = 1.5  # cells of areas that differ by less than this factor are of one size
SIZES = 128  # more than there are: of an area of 64 bits
SMOOTHING = 1.0  # cells that each kind is taken to have beyond those that were counted


def needs(shards: Sequence[Path]) -> NDArray[np.float64]:
    """float64 (rows,): the mean need of the learned cells of each row of all shards, in order; .5 without cells."""
    human, _ = label_kinds(shards)
    found = np.full(len(human), 0.5)
    counts = np.zeros((2, 0), np.int64)  # cells of each kind: of the pseudo-labels, drawn by a person
    images, kinds, before = [], [], 0
    for path in shards:
        image, (class_id, area) = learnt_cells(path, "class_id", "area")
        rows, kind = image + before, (class_id * SIZES + _size(area)).astype(np.int32)
        counts = _added(counts, kind, human[rows])
        images.append(rows.astype(np.int32))
        kinds.append(kind)
        before += count_rows_unread(path)
    if not counts.any():
        return found
    known = counts.any(axis=0)
    need = np.zeros(counts.shape[1])
    theirs, own = _shares(counts[0, known]), _shares(counts[1, known])
    need[known] = theirs / (own + theirs)
    for numbers, each in zip(images, kinds, strict=True):  # the images of a shard stand in it alone
        if len(numbers):
            first, last = int(numbers[0]), int(numbers[-1]) + 1
            cells = np.bincount(numbers - first, minlength=last - first)
            total = np.bincount(numbers - first, weights=need[each], minlength=last - first)
            found[first:last][cells > 0] = total[cells > 0] / cells[cells > 0]
    return found


def _added(counts: NDArray[np.int64], kind: NDArray[np.int32], by_person: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The counts (2, kinds) with more cells."""
    more = max(counts.shape[1], int(kind.max(initial=-1)) + 1)
    added = np.stack([np.bincount(kind[by_person == human], minlength=more) for human in (False, True)])
    added[:, : counts.shape[1]] += counts
    return added


def _size(area: NDArray[np.int64]) -> NDArray[np.float64]:
    size: NDArray[np.float64] = np.floor(np.log(np.maximum(area, 1)) / np.log(SIZE_STEP))
    return size


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of each kind among some cells, smoothed."""
    smooth = counts + SMOOTHING
    return np.asarray(smooth / smooth.sum(), np.float64)
