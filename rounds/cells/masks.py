"""Converts masks between label maps, crops and run lengths; computes IoU and removes overlaps.

Masks are run lengths as pycocotools has them (column-major, compressed). The work is done on the runs (`run_kernels`),
so that the cost grows with the cells and not with cells x image size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.overlap import Overlap, overlap_of_runs
from cellsemi.rounds.cells.rle import (
    Bitmap,
    Crop,
    Runs,
    draw_crops,
    kernels,
    runs_of,
    runs_of_crops,
    runs_of_labels,
    texts_of,
)

MAX_LABEL = 1 << 22  # values up to it are found without sorting the pixels


def from_label_map(labels: NDArray[Any], **columns: Any) -> Instances:
    """Instances of an integer (H, W) label map: 0 is background, every other value one cell, in value order.

    `columns` go to Instances.build (scalars, or arrays in the order of the sorted label values).
    """
    if labels.ndim != 2:
        raise ValueError(f"expected a (H, W) label map, got shape {labels.shape}")
    return _cells_of(_numbered(labels), columns)[0]


def _numbered(labels: NDArray[Any]) -> NDArray[np.int32]:
    """The label map with values that count objects: its own where they are small, else 1..N in their order."""
    if labels.size and labels.min() >= 0 and labels.max() <= MAX_LABEL:
        return labels.astype(np.int32, copy=False)
    return _dense(labels)


def _dense(labels: NDArray[Any]) -> NDArray[np.int32]:
    """The label map with its values but 0 numbered 1..N in their order, whatever they are; it sorts all pixels."""
    values, dense = np.unique(labels, return_inverse=True)
    numbers = np.where(values == 0, 0, np.cumsum(values != 0)).astype(np.int32)
    return np.asarray(numbers[dense].reshape(labels.shape))


def _cells_of(numbered: NDArray[np.int32], columns: Mapping[str, Any]) -> tuple[Instances, NDArray[np.intp]]:
    """The cells of a label map with values that count objects, and the value of each."""
    height, width = numbered.shape
    runs = runs_of_labels(numbered)
    values = np.flatnonzero(np.diff(runs.offsets))
    runs = runs._replace(offsets=runs.offsets[np.append(values, len(runs.offsets) - 1)])
    return from_runs(height, width, runs, **columns), values


def from_crops(height: int, width: int, crops: Sequence[Crop], **columns: Any) -> Instances:
    """Instances from (bitmap, x0, y0) crops; each must hold a pixel. Boxes are made tight."""
    runs = runs_of_crops(crops, height, width)
    empty = np.diff(runs.offsets) == 0
    if empty.any():
        _, x0, y0 = crops[int(empty.argmax())]
        raise ValueError(f"the mask at ({x0}, {y0}) holds no pixel")
    return from_runs(height, width, runs, **columns)


def from_runs(height: int, width: int, runs: Runs, **columns: Any) -> Instances:
    """Instances from the runs of masks; each must hold a pixel."""
    boxes, areas = runs.measure(height)
    return Instances.build(height, width, texts_of(runs, height * width), boxes, areas, **columns)


def crops(instances: Instances) -> list[Crop]:
    """(bitmap, x0, y0) of every cell, inside its bounding box."""
    drawn = draw_crops(instances_runs(instances), instances.bbox, instances.height)
    return [(crop, x0, y0) for crop, (x0, y0) in zip(drawn, instances.bbox[:, :2].tolist(), strict=True)]


def instances_runs(instances: Instances) -> Runs:
    """The runs of all masks, in the order of the cells."""
    return runs_of(instances.rle, instances.height, instances.width)


def without_holes(instances: Instances) -> Instances:
    """The same cells with the holes of each mask filled: background that it cuts off from the outside."""
    from scipy import ndimage  # the leaderboard does without scipy

    filled = [(ndimage.binary_fill_holes(crop), x, y) for crop, x, y in crops(instances)]
    drawn = from_crops(instances.height, instances.width, filled)
    return instances.with_(rle=drawn.rle, bbox=drawn.bbox, area=drawn.area)


def to_label_map(instances: Instances, order: NDArray[Any] | None = None) -> NDArray[np.int32]:
    """An int32 (H, W) label map, cell i as i + 1; where masks overlap, the earlier in `order` keeps the pixel.

    `order` (N,) defaults to falling score, ties by index. A cell covered whole by others gets no pixel.
    """
    if order is None:
        order = np.argsort(-instances.score, kind="stable")
    drawn = np.zeros(instances.height * instances.width, np.int32)
    if len(instances):
        kernels().paint(drawn, *instances_runs(instances), np.asarray(order, np.int64))
    return np.ascontiguousarray(drawn.reshape(instances.width, instances.height).T)


def without_overlaps(instances: Instances, order: NDArray[Any] | None = None) -> tuple[Instances, NDArray[np.int64]]:
    """The cells with every pixel given to one of them, and how many pixels each lost, int64 (N,).

    `order` is that of `to_label_map`. Cells keep their place and columns; one that is covered whole by others
    is left out of the result, and has lost its whole area.
    """
    drawn, values = _cells_of(to_label_map(instances, order), {})
    index = values - 1
    lost = instances.area.copy()
    lost[index] -= drawn.area
    return instances.select(index).with_(rle=drawn.rle, bbox=drawn.bbox, area=drawn.area), lost


def pair_overlap(a: Instances, b: Instances) -> tuple[Overlap, NDArray[np.int64], NDArray[np.int64]]:
    """The pixels that cells of the same image share, pair by pair, and the areas of the masks of a and of b."""
    if (a.height, a.width) != (b.height, b.width):
        raise ValueError(f"expected one image size, got {a.height}x{a.width} and {b.height}x{b.width}")
    first, second = instances_runs(a), instances_runs(b)
    found = overlap_of_runs((first, a.bbox), (second, b.bbox), a.height, a.width)
    return found, first.area(), second.area()


def iou_matrix(a: Instances, b: Instances) -> NDArray[np.float64]:
    """Mask IoU, float64 (len(a), len(b)), of cells of the same image."""
    found, _, _ = pair_overlap(a, b)
    table = np.zeros(found.shape)
    table[found.rows, found.columns] = found.iou
    return table


def union_map(instances: Instances, dilation_px: int = 0) -> Bitmap:
    """bool (H, W): pixels in any mask, grown by `dilation_px` (a disc in the city-block sense)."""
    if not len(instances):
        return np.zeros((instances.height, instances.width), bool)
    covered = to_label_map(instances) > 0
    for _ in range(dilation_px):
        before = covered.copy()
        covered[1:] |= before[:-1]
        covered[:-1] |= before[1:]
        covered[:, 1:] |= before[:, :-1]
        covered[:, :-1] |= before[:, 1:]
    return covered
