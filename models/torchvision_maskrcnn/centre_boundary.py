"""Trains a detector on two extra tasks: the centres of the cells, and their boundaries.

Both are maps made from the instance map of a crop (system D of docs/models.md), learnt by a two-layer head on the
first level of the pyramid. Prediction does not use them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 4  # pixels of the crop per pixel of the first level
HIDDEN = 64  # channels between the two layers of a head
REACH = 4  # a centre's peak is cut off at this many sigma

InstanceMap = NDArray[np.int32]
Map = NDArray[np.float32]


def centre_map(instance_map: InstanceMap, sigma_px: float) -> Map:
    """float32 (P, P): a Gaussian peak of height 1 at each cell's centre of mass; where peaks meet, the higher.

    `instance_map` int32 (P, P): cells are positive, anything else is none. A peak is 0 beyond REACH x `sigma_px`.
    """
    cells = np.maximum(instance_map, 0)
    found = np.zeros(cells.shape, np.float32)
    places = enumerate(ndimage.find_objects(cells), start=1)
    for number, place in [each for each in places if each[1] is not None]:
        inside = cells[place] == number
        axes = []
        for axis, extent in enumerate(place):
            amount = inside.sum(1 - axis)
            centre = extent.start + float((np.arange(len(amount)) * amount).sum() / amount.sum())
            start = max(0, math.ceil(centre - REACH * sigma_px))
            stop = min(cells.shape[axis], math.floor(centre + REACH * sigma_px) + 1)
            pixels = np.arange(start, stop)
            axes.append((slice(start, stop), np.exp(-((pixels - centre) ** 2) / (2 * sigma_px**2))))
        (rows, y), (columns, x) = axes
        peak = np.outer(y, x).astype(np.float32)
        found[rows, columns] = np.maximum(found[rows, columns], peak)
    return found


def boundary_map(instance_map: InstanceMap) -> Map:
    """float32 (P, P), 1 on boundaries: of any cell, its dilation but not its erosion (3x3 both).

    A pixel is in the dilation of a cell when its 3x3 neighbourhood holds the cell, and in its erosion when
    the neighbourhood holds nothing else; so a pixel is on a boundary when its neighbourhood is not uniform.
    The edge of the crop is no boundary.
    """
    cells = np.maximum(instance_map, 0)
    top = ndimage.maximum_filter(cells, 3, mode="nearest")
    bottom = ndimage.minimum_filter(cells, 3, mode="nearest")
    edge: Map = (top != bottom).astype(np.float32)
    return edge


def map_makers(*, centre: bool, boundary: bool, sigma_px: float) -> dict[str, Callable[[InstanceMap], Map]]:
    """The function that makes the map of each head that is switched on, by its name."""
    makers: dict[str, Callable[[InstanceMap], Map]] = {}
    if centre:
        makers["centre"] = functools.partial(centre_map, sigma_px=sigma_px)
    if boundary:
        makers["boundary"] = boundary_map
    return makers


def map_head(channels: int) -> nn.Sequential:
    """(B, channels, h, w) features -> (B, 1, h, w) logits, in two layers."""
    return nn.Sequential(nn.Conv2d(channels, HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(HIDDEN, 1, 1))


def map_loss(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Binary cross entropy of logits (B, 1, h, w) against a map (B, P, P) with pixel weights (B, P, P).

    The map comes to the head's resolution by its maximum over STRIDE x STRIDE pixels, the weight by its mean;
    pixels of weight 0 count in neither, and the padding of the crop has no weight.
    """
    height, width = (STRIDE * side for side in logits.shape[2:])
    missing = (0, width - truth.shape[2], 0, height - truth.shape[1])
    known = (weight > 0).to(truth.dtype)
    small = functional.max_pool2d(functional.pad((truth * known)[:, None], missing), STRIDE)
    share = functional.avg_pool2d(functional.pad(weight[:, None], missing), STRIDE)
    entropy = functional.binary_cross_entropy_with_logits(logits.float(), small, reduction="none")
    return (entropy * share).sum() / share.sum().clamp(min=1e-6)
