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

from cellsemi.models.crops.sampling import columns, label_kinds, learnt_cells

SIZE_STEP = 1.5  # cells of areas that differ by less than this factor are of one size
SMOOTHING = 1.0  # cells that each kind is taken to have beyond those that were counted


def needs(shards: Sequence[Path]) -> NDArray[np.float64]:
    """float64 (rows,): the mean need of the learned cells of each row of all shards, in order; .5 without cells."""
    human, _ = label_kinds(shards)
    images, kinds, before = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int64)], 0
    for path in shards:
        image, (class_id, area) = learnt_cells(path, "class_id", "area")
        images.append(image + before)
        kinds.append(np.stack([class_id, _size(area)], axis=1).astype(np.int64))
        before += len(columns(path, "split"))
    image = np.concatenate(images)
    found = np.full(len(human), 0.5)
    if not len(image):
        return found
    _, kind = np.unique(np.concatenate(kinds), axis=0, return_inverse=True)
    by_person = human[image]
    own, theirs = _shares(kind, by_person), _shares(kind, ~by_person)
    need = (theirs / (own + theirs))[kind]
    cells = np.bincount(image, minlength=len(human))
    total = np.bincount(image, weights=need, minlength=len(human))
    found[cells > 0] = total[cells > 0] / cells[cells > 0]
    return found


def _size(area: NDArray[np.int64]) -> NDArray[np.float64]:
    size: NDArray[np.float64] = np.floor(np.log(np.maximum(area, 1)) / np.log(SIZE_STEP))
    return size


def _shares(kind: NDArray[np.int64], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The share of each kind among the chosen cells, smoothed."""
    counts = np.bincount(kind[chosen], minlength=int(kind.max()) + 1) + SMOOTHING
    return np.asarray(counts / counts.sum(), np.float64)
