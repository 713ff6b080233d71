"""Builds the input and the targets of a box detector from crops: boxes, classes, weights, instance maps.

The masks stay one instance map per crop. They are sampled in the boxes where a loss needs them, so that the
memory does not grow with the number of cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cellsemi.models.crops.crop import Crop
from cellsemi.models.crops.source import CropSource, ValidationCrops
from cellsemi.rounds.cells.instance_map import IGNORE

MIN_SIDE_PX = 2  # what is left of a cell in a crop is ignored when its box is narrower,
MIN_AREA_PX = 4  # or its area smaller

MapMaker = Callable[[NDArray[np.int32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class DetectorTarget:
    """The n cells of one crop of P x P pixels. Tables are indexed by number: 0 is the background, cells are 1..n."""

    boxes: Tensor  # (n + 1, 4) float32, x0, y0, x1, y1, half-open; row 0 is zero
    labels: Tensor  # (n + 1,) int64: class + 1, 0 for the background
    weights: Tensor  # (n + 1,) float32; the first is that of the background
    instance_map: Tensor  # (P, P) int32: 0, a cell's number, or IGNORE
    ignored_sum: Tensor  # (P + 1, P + 1) int64: IGNORE pixels above and left of each corner


@dataclass(frozen=True, slots=True)
class DetectorBatch:
    """B crops; `maps` and `weight` are there for the extra heads (centre_boundary)."""

    images: Tensor  # (B, 3, P, P) float32 in [0, 1]
    targets: list[DetectorTarget]
    maps: Mapping[str, Tensor]  # (B, P, P) float32 each
    weight: Tensor  # (B, P, P) float32: of the pixel's cell, 0 where IGNORE


@dataclass(frozen=True, slots=True)
class DetectorBatches:
    """The batch of each step, on the CPU."""

    source: CropSource | ValidationCrops
    scale: float
    makers: Mapping[str, MapMaker]

    def __call__(self, step: int) -> DetectorBatch:
        """The batch of a step."""
        return batch_of(self.source(step), self.scale, self.makers)


def batch_of(crops: Sequence[Crop], scale: float, makers: Mapping[str, MapMaker]) -> DetectorBatch:
    """The batch of some colour crops of one size, enlarged by `scale`, on the CPU."""
    images = np.stack([resized(crop.pixels, scale) for crop in crops]).transpose(0, 3, 1, 2)
    targets = [target_of(crop, scale) for crop in crops]
    cells = [target.instance_map.numpy() for target in targets]
    maps = {
        name: torch.from_numpy(np.stack([make(instance_map) for instance_map in cells]))
        for name, make in makers.items()
    }
    weight = torch.stack([_pixel_weight(target) for target in targets])
    return DetectorBatch(torch.from_numpy(images), targets, maps, weight)


def resized(pixels: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """(h, w, 3) resized by `scale`, to at least a pixel a side; averaged by area when it shrinks."""
    height, width = (_scaled_side(side, scale) for side in pixels.shape[:2])
    if (height, width) == pixels.shape[:2]:
        return pixels
    done = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return done.astype(np.float32, copy=False)


def target_of(crop: Crop, scale: float) -> DetectorTarget:
    """The target of one crop, on the CPU.

    Cells of which the crop shows hardly anything (MIN_SIDE_PX, MIN_AREA_PX) become IGNORE: they have no
    box to learn, and they are not background.
    """
    instance_map = _resized_map(crop.instance_map, scale)
    cells = np.maximum(instance_map, 0)
    area = np.bincount(cells.ravel())
    number = np.zeros(len(area), np.int32)  # the new one of each old one
    kept, boxes = [0], [(0, 0, 0, 0)]
    places = enumerate(ndimage.find_objects(cells), start=1)
    for cell, (y, x) in [each for each in places if each[1] is not None]:
        if min(y.stop - y.start, x.stop - x.start) < MIN_SIDE_PX or area[cell] < MIN_AREA_PX:
            number[cell] = IGNORE
            continue
        number[cell] = len(kept)
        kept.append(cell)
        boxes.append((x.start, y.start, x.stop, y.stop))
    instance_map = np.where(instance_map == IGNORE, np.int32(IGNORE), number[cells])
    ignored_sum = np.pad((instance_map == IGNORE).cumsum(0, np.int64).cumsum(1), ((1, 0), (1, 0)))
    labels = crop.cell_class[kept] + 1
    labels[0] = 0
    return DetectorTarget(
        boxes=torch.tensor(boxes, dtype=torch.float32),
        labels=torch.from_numpy(labels),
        weights=torch.from_numpy(crop.cell_weight[kept]),
        instance_map=torch.from_numpy(instance_map),
        ignored_sum=torch.from_numpy(ignored_sum),
    )


def _scaled_side(side: int, scale: float) -> int:
    return max(1, round(side * scale))


def _resized_map(instance_map: NDArray[np.int32], scale: float) -> NDArray[np.int32]:
    """The instance map resized: each pixel takes the one whose centre is nearest."""
    rows, columns = (
        ((np.arange(_scaled_side(side, scale)) + 0.5) * side / _scaled_side(side, scale)).astype(np.int64)
        for side in instance_map.shape
    )
    return instance_map[np.ix_(rows, columns)]


def _pixel_weight(target: DetectorTarget) -> Tensor:
    weight = target.weights[target.instance_map.clamp(min=0).long()]
    return torch.where(target.instance_map == IGNORE, 0.0, weight)
