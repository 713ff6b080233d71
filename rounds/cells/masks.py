"""Converts masks between label maps, crops and run lengths; computes IoU and removes overlaps.

Masks are run lengths as pycocotools has them (column-major, compressed). The work is done on the runs (`run_kernels`),
so that the cost grows with the cells and not with cells x image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.rle import Bitmap, Runs, draw_crops, encode_crop, kernels, runs_of

MAX_LABEL = 1 << 22  # values up to it are found without sorting the pixels


def from_label_map(labels: NDArray[Any], **columns: Any) -> Instances:
    """Instances of an integer (H, W) label map: 0 is background, every other value one cell, in value order.

    `columns` go to Instances.build (scalars, or arrays in the order of the sorted label values).
    """
    if labels.ndim != 2:
        raise ValueError(f"expected a (H, W) label map, got shape {labels.shape}")
    height, width = labels.shape
    return from_crops(height, width, _label_crops(_numbered(labels)), **columns)


def _numbered(labels: NDArray[Any]) -> NDArray[np.int32] | NDArray[np.intp]:
    """The label map with values that count objects: its own where they are small, else 1..N in their order."""
    if labels.size and labels.min() >= 0 and labels.max() <= MAX_LABEL:
        return labels.astype(np.int32)
    return _dense(labels)


def _dense(labels: NDArray[Any]) -> NDArray[np.intp]:
    """The label map with its values but 0 numbered 1..N in their order, whatever they are; it sorts all pixels."""
    values, dense = np.unique(labels, return_inverse=True)
    offset = 0 if len(values) and values[0] == 0 else 1
    return dense.reshape(labels.shape) + offset


def _label_crops(dense: NDArray[Any]) -> list[tuple[Bitmap, int, int]]:
    from scipy import ndimage

    crops = []
    for value, box in enumerate(ndimage.find_objects(dense), start=1):
        if box is not None:
            rows, columns = box
            crops.append((dense[box] == value, int(columns.start), int(rows.start)))
    return crops


def from_crops(height: int, width: int, crops: Sequence[tuple[Bitmap, int, int]], **columns: Any) -> Instances:
    """Instances from (bitmap, x0, y0) crops; each must hold a pixel. Boxes are made tight."""
    rles, boxes, areas = [], [], []
    for crop, x0, y0 in crops:
        rows, cols = np.flatnonzero(crop.any(1)), np.flatnonzero(crop.any(0))
        if not len(rows):
            raise ValueError(f"the mask at ({x0}, {y0}) holds no pixel")
        tight = crop[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        left, top = x0 + int(cols[0]), y0 + int(rows[0])
        rles.append(encode_crop(tight, left, top, height, width))
        boxes.append((left, top, left + tight.shape[1], top + tight.shape[0]))
        areas.append(int(tight.sum()))
    return Instances.build(height, width, rles, np.array(boxes).reshape(-1, 4), np.array(areas), **columns)


def crops(instances: Instances) -> list[tuple[Bitmap, int, int]]:
    """(bitmap, x0, y0) of every cell, inside its bounding box."""
    drawn = draw_crops(instances_runs(instances), instances.bbox, instances.height)
    return [(crop, int(box[0]), int(box[1])) for crop, box in zip(drawn, instances.bbox, strict=True)]


def instances_runs(instances: Instances) -> Runs:
    """The runs of all masks, in the order of the cells."""
    return runs_of(instances.rle, instances.height, instances.width)


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
    labels = to_label_map(instances, order)
    drawn = from_label_map(labels)
    index = np.setdiff1d(labels, [0]).astype(np.int64) - 1
    lost = instances.area.copy()
    lost[index] -= drawn.area
    return instances.select(index).with_(rle=drawn.rle, bbox=drawn.bbox, area=drawn.area), lost


def shared_pixels(a: Instances, b: Instances) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The pixels that cells of the same image share, int64 (len(a), len(b)), and the areas of their masks."""
    if (a.height, a.width) != (b.height, b.width):
        raise ValueError(f"expected one image size, got {a.height}x{a.width} and {b.height}x{b.width}")
    shared = np.zeros((len(a), len(b)), np.int64)
    first, second = instances_runs(a), instances_runs(b)
    kernels().shared_pixels(*first, a.bbox, *second, b.bbox, shared)
    return shared, first.area(), second.area()


def iou_matrix(a: Instances, b: Instances) -> NDArray[np.float64]:
    """Mask IoU, float64 (len(a), len(b)), of cells of the same image."""
    shared, first, second = shared_pixels(a, b)
    return np.asarray(shared / np.maximum(first[:, None] + second[None, :] - shared, 1))


def union_map(instances: Instances, dilation_px: int = 0) -> Bitmap:
    """bool (H, W): pixels in any mask, grown by `dilation_px` (a disc in the city-block sense)."""
    covered = to_label_map(instances) > 0
    if dilation_px and covered.any():
        from scipy import ndimage

        covered = ndimage.binary_dilation(covered, iterations=dilation_px)
    return covered
