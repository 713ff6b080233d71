"""Masks and run lengths in plain NumPy and pycocotools: what the compiled loops are compared with."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

Bitmap = NDArray[np.bool_]


def encode(mask: Bitmap) -> bytes:
    """The text of a whole (H, W) mask, by pycocotools."""
    text: bytes = coco.encode(np.asfortranarray(mask.view(np.uint8)))["counts"]
    return text


def decode(text: bytes, height: int, width: int) -> Bitmap:
    """The whole mask, by pycocotools."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pycocotools about NumPy 2
        return np.asarray(coco.decode({"size": [height, width], "counts": text}), bool)


def label_map(masks: list[Bitmap], order: list[int], height: int, width: int) -> NDArray[np.int32]:
    """Mask i as i + 1; what stands first in `order` is on top."""
    drawn = np.zeros((height, width), np.int32)
    for i in reversed(order):
        drawn[masks[i]] = i + 1
    return drawn


def shared_pixels(first: list[Bitmap], second: list[Bitmap]) -> NDArray[Any]:
    """The pixels of each pair, int64 (N, M)."""
    found = [[int((one & other).sum()) for other in second] for one in first]
    return np.array(found, np.int64).reshape(len(first), len(second))
