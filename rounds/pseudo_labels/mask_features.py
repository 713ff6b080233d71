"""Measures a predicted mask without the truth: its shape, and how it lies among the others."""

from __future__ import annotations

from itertools import product
from math import pi
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import crops, to_label_map
from cellsemi.rounds.cells.rle import Crop
from cellsemi.rounds.cells.shape import eccentricity, perimeter, second_core, solidity

FEATURES = (
    "score", "votes", "agreement", "log_area", "log_area_ratio", "fill", "eccentricity", "roundness", "border",
    "solidity", "second_core", "touching", "covered", "children", "class_id",
)  # fmt: skip
DECIMALS = 5  # enough for a split of a tree, and short in JSON

Floats = NDArray[np.float64]


def features(cells: Instances) -> Floats:
    """The columns FEATURES of all predictions of one image, float64 (N, 15), rounded to five decimals.

    `log_area` is of pixels, `log_area_ratio` of the area over the median of the image; `fill` is the share of the
    bounding box; `roundness` is 4 pi area / perimeter^2 (Cox 1927; the perimeter at least 1), about 1 for a disc;
    `border` is 1 where the mask reaches the edge of the image; `touching` counts the predictions beside it (8
    neighbours, a pixel of several masks belonging to the best scored); `covered` is the share of its pixels that
    others hold too. Three are there for merges, two cells in one mask, the commonest error of a label: `solidity` and
    `second_core` (`cells.shape`) see its waist, and `children` counts the smaller predictions that lie with more than
    half of their area in it: what another teacher saw as cells of their own. The cost grows with the image, the boxes
    and the pixels that masks share, not with pairs of cells.
    """
    if not len(cells):
        return np.zeros((0, len(FEATURES)))
    bitmaps = crops(cells)
    held = _held_by_several(cells, bitmaps)
    box = cells.bbox.astype(np.float64)
    log_area = np.log(cells.area)
    columns = {
        "score": cells.score,
        "votes": cells.votes,
        "agreement": cells.agreement,
        "log_area": log_area,
        "log_area_ratio": log_area - np.log(np.median(cells.area)),
        "fill": cells.area / ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])),
        "eccentricity": [eccentricity(crop) for crop, _, _ in bitmaps],
        "roundness": 4 * pi * cells.area / [max(1.0, perimeter(crop)) ** 2 for crop, _, _ in bitmaps],
        "border": (box[:, :2] == 0).any(axis=1) | (box[:, 2:] == (cells.width, cells.height)).any(axis=1),
        "solidity": [solidity(crop) for crop, _, _ in bitmaps],
        "second_core": [second_core(crop) for crop, _, _ in bitmaps],
        "touching": _touching(to_label_map(cells), len(cells)),
        "covered": held.sum(axis=1) / cells.area,
        "children": _children(cells.area, held),
        "class_id": cells.class_id,
    }
    return np.stack([np.asarray(columns[name], np.float64) for name in FEATURES], axis=1).round(DECIMALS)


def _touching(labels: NDArray[Any], n: int) -> NDArray[np.int64]:
    """How many other cells each of the cells 1..n of a label map has beside it, int64 (n,)."""
    height, width = labels.shape
    found = [np.zeros(0, np.int64)]
    for dy, dx in product((0, 1), (-1, 0, 1)):
        if (dy, dx) <= (0, 0):
            continue
        here = labels[: height - dy, max(0, -dx) : width - max(0, dx)]
        there = labels[dy:, max(0, dx) : width - max(0, -dx)]
        meet = (here != there) & (here > 0) & (there > 0)
        a, b = here[meet].astype(np.int64) - 1, there[meet].astype(np.int64) - 1
        found.append(np.unique(np.minimum(a, b) * n + np.maximum(a, b)))
    pairs = np.unique(np.concatenate(found))
    return np.bincount(pairs // n, minlength=n) + np.bincount(pairs % n, minlength=n)


def _held_by_several(cells: Instances, bitmaps: list[Crop]) -> sparse.csr_array:
    """int32 (N, H * W): 1 where a cell holds a pixel that another one holds too."""
    layers = np.zeros((cells.height, cells.width), np.int32)
    for crop, x, y in bitmaps:
        layers[y : y + crop.shape[0], x : x + crop.shape[1]] += crop
    pixels = []
    for crop, x, y in bitmaps:
        rows, columns = np.nonzero(crop & (layers[y : y + crop.shape[0], x : x + crop.shape[1]] > 1))
        pixels.append((rows + y) * cells.width + columns + x)
    ends = np.cumsum([0, *map(len, pixels)])
    every = np.concatenate(pixels)
    shape = len(bitmaps), cells.height * cells.width
    return sparse.csr_array((np.ones(len(every), np.int32), every, ends), shape=shape)


def _children(area: NDArray[np.int64], held: sparse.csr_array) -> NDArray[np.int64]:
    """How many smaller cells each one holds by more than half of their area, int64 (N,)."""
    shared = (held @ held.T).tocoo()
    inside = (2 * shared.data > area[shared.col]) & (area[shared.col] < area[shared.row])
    return np.bincount(shared.row[inside], minlength=len(area))
