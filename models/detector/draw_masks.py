"""Draws the small masks of a detector as cells, each in its own box, never on the whole image.

torchvision's `paste_masks_in_image` rounds the boxes and stretches each mask by a pixel, which costs a cell of
ten pixels a fifth of its IoU; here a pixel takes the mask's value at its own centre.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.models.detector.cell_crops import CellCrops

THRESHOLD = 0.5  # pixels above this probability belong to the cell


def paste_in_box(
    mask: NDArray[np.float32], box: NDArray[Any], height: int, width: int
) -> tuple[NDArray[np.float32], int, int]:
    """The probabilities float32 (h, w) of the pixels whose centres lie in a box, and its corner x0, y0.

    `mask` (M, M) is spread over `box` (x0, y0, x1, y1, float, in pixels); between the centres of its bins it is
    interpolated, beyond the outermost ones it stays. h or w is 0 for a box without a pixel centre in the image.
    """
    x, across = _weights(float(box[0]), float(box[2]), mask.shape[1], width)
    y, down = _weights(float(box[1]), float(box[3]), mask.shape[0], height)
    probability = (down @ mask @ across.T).astype(np.float32, copy=False)
    return probability, x, y


def cells_in_boxes(
    height: int,
    width: int,
    boxes: NDArray[Any],
    small: NDArray[np.float32],
    scores: NDArray[Any],
    class_id: NDArray[Any],
) -> CellCrops:
    """Cells of boxes (n, 4) with masks `small` (n, M, M), scores (n,) in [0, 1] and classes (n,).

    The score of a cell is that of its box times the mean probability of its pixels (above THRESHOLD). What
    has no pixel is no cell.
    """
    crops, index, score = [], [], []
    for i, box in enumerate(boxes):
        probability, x, y = paste_in_box(small[i], box, height, width)
        inside = probability > THRESHOLD
        if inside.any():
            crops.append((inside, x, y))
            index.append(i)
            score.append(float(scores[i]) * float(probability[inside].mean()))
    classes = class_id[np.asarray(index, np.int64)]
    return CellCrops.of(height, width, crops, classes, np.clip(np.asarray(score), 0, 1))


def _weights(low: float, high: float, bins: int, length: int) -> tuple[int, NDArray[np.float32]]:
    """First pixel of a side of a box, and what each bin adds to each of its pixels: float32 (pixels, bins)."""
    start = min(max(int(np.ceil(low - 0.5)), 0), length)
    stop = min(max(int(np.ceil(high - 0.5)), start), length)
    share = np.zeros((stop - start, bins), np.float32)
    if stop > start:
        place = ((np.arange(start, stop) + 0.5 - low) / (high - low) * bins - 0.5).clip(0, bins - 1)
        before = place.astype(np.int64)
        rows, part = np.arange(stop - start), (place - before).astype(np.float32)
        share[rows, before] = 1 - part
        share[rows, np.minimum(before + 1, bins - 1)] += part
    return start, share
