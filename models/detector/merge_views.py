"""Turns and scales an image for a detector, brings the cells of a view back, and merges those of all views.

Masks come back as crops; nothing of the image's size is made per cell. A turn is exact: a box edge x becomes
W - x and pixel x becomes W - 1 - x, so an aligned crop only changes its corner and its direction. The half
pixel by which flipped masks of RoIAlign detectors are known to shift comes from mixing those two (flipping
a box by W - 1 - x), or from drawing the small mask on a box that was rounded towards zero in the frame of the
view: there the error has the other sign in the image. So a detector draws a mask at the centres of
pixels (`draw_masks`), on the view, and only the drawn bitmap is turned back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.rounds import FusionConfig
from cellsemi.configs.training import View
from cellsemi.models.detector.cell_crops import CellCrops
from cellsemi.models.inference.tta import turn, turn_back
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.rle import Bitmap, Crop
from cellsemi.rounds.pseudo_labels.fusion import fuse

SWAPPED: tuple[View, ...] = ("rot90", "rot270")  # views whose height is the width of the image


def transform_view(pixels: NDArray[np.float32], view: View, scale: float) -> NDArray[np.float32]:
    """The view of an image (H, W, 3), scaled: averaged by area when it shrinks, else interpolated."""
    import cv2

    turned = np.ascontiguousarray(np.moveaxis(turn(np.moveaxis(pixels, -1, 0), view), 0, -1))
    height, width = view_size(pixels.shape[0], pixels.shape[1], view, scale)
    if (height, width) == turned.shape[:2]:
        return turned
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(turned, (width, height), interpolation=method), np.float32)


def view_size(height: int, width: int, view: View, scale: float) -> tuple[int, int]:
    """Height and width of the view that `transform_view` makes of an image."""
    sides = (width, height) if view in SWAPPED else (height, width)
    return max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale))


def invert_view(cells: CellCrops, view: View, height: int, width: int) -> CellCrops:
    """Cells of a view made by `transform_view`, on the image of height x width pixels itself.

    A cell of an enlarged view that covers no pixel of the image is left out.
    """
    size = (cells.width, cells.height) if view in SWAPPED else (cells.height, cells.width)
    if view == "identity" and size == (height, width):
        return cells
    crops, index = [], []
    for i, (crop, x, y) in enumerate(cells.crops):
        back = crop_back(crop, x, y, (cells.height, cells.width), view)
        if size != (height, width):
            back = crop_resized(*back, size, (height, width))
        if back[0].any():
            crops.append(back)
            index.append(i)
    kept = np.array(index, np.int64)
    return CellCrops.of(height, width, crops, cells.class_id[kept], cells.score[kept])


def crop_back(crop: Bitmap, x: int, y: int, size: tuple[int, int], view: View) -> Crop:
    """A crop at x, y of a view of `size` (height, width), in the frame of the image: bitmap, x, y."""
    right, bottom = size[1] - x - crop.shape[1], size[0] - y - crop.shape[0]
    corners: dict[View, tuple[int, int]] = {
        "identity": (x, y),
        "flip_x": (right, y),
        "flip_y": (x, bottom),
        "rot90": (bottom, x),
        "rot180": (right, bottom),
        "rot270": (y, right),
    }
    return turn_back(crop, view), *corners[view]


def crop_resized(crop: Bitmap, x: int, y: int, size: tuple[int, int], to: tuple[int, int]) -> Crop:
    """A crop at x, y of an image of `size` (height, width) as it is when the image is resized to `to`.

    A pixel is in when the mask, interpolated between its pixels' centres, is at least 1/2 at the pixel's
    own centre. The nearest pixel would do but for ties (every pixel at scale 2), which shift the mask
    towards one side, and with a flipped view towards the other.
    """
    left, across = _weights(x, crop.shape[1], size[1], to[1])
    top, down = _weights(y, crop.shape[0], size[0], to[0])
    bitmap: Bitmap = down @ crop.astype(np.float64) @ across.T >= 0.5 - 1e-6
    return bitmap, left, top


def merge_views(found: Sequence[CellCrops], same_iou: float) -> CellCrops | Instances:
    """One set of cells from those of each view: `fusion.fuse` with the views in the place of teachers.

    Cells of different views with IoU >= `same_iou` are one; its pixels are voted for, its score is the sum of
    its scores over the number of all views (a view that did not find it counts 0) times the mean IoU of its
    masks: what the views agree on stays, what one of four found keeps a quarter. That mean IoU is `agreement`.
    One view is left unchanged.
    """
    if len(found) == 1:
        return found[0]
    named = {f"{i:03d}": cells.encode() for i, cells in enumerate(found)}
    return fuse(named, FusionConfig(iou=same_iou), one_class_per_image=False).with_(votes=1)


def _weights(start: int, length: int, side: int, to: int) -> tuple[int, NDArray[np.float64]]:
    """First pixel of the resized side that a crop may reach, and the share (pixels, length) of the crop's in each."""
    scale = side / to
    first = max(0, int(np.floor((start - 0.5) / scale - 0.5)))
    stop = min(to, int(np.ceil((start + length + 0.5) / scale + 0.5)))
    place = ((np.arange(first, stop) + 0.5) * scale - 0.5).clip(0, side - 1)
    return first, np.maximum(0, 1 - np.abs(place[:, None] - np.arange(start, start + length)))
