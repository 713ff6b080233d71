"""From an image of any kind to the one channel that the network sees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
LOW, HIGH = 1.0, 99.8  # percentiles that become 0 and 1
SAMPLE = 1 << 18  # pixels that the percentiles are taken from, on a regular grid


def normalise(image: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W) or (H, W, 3) of any numeric dtype -> float32 (H, W) in [0, 1].

    Colour becomes luminance. The percentiles are taken per image, because exposure differs between
    images more than cells do; they give way to minimum and maximum where they are equal (a few bright
    cells on flat ground), and a constant image becomes zeros. Values that are not finite count as 0.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise ValueError(f"expected a (H, W) or (H, W, 3) image with pixels, got shape {image.shape}")
    grey = image.astype(np.float32)
    if not np.isfinite(grey).all():
        grey = np.nan_to_num(grey, nan=0.0, posinf=0.0, neginf=0.0)
    if grey.ndim == 3:
        grey = grey @ LUMINANCE
    step = max(1, int(np.sqrt(grey.size / SAMPLE)))
    low, high = np.percentile(grey[::step, ::step], (LOW, HIGH))
    if high <= low:
        low, high = float(grey.min()), float(grey.max())
    if high <= low:
        return np.zeros(grey.shape, np.float32)
    scaled: NDArray[np.float32] = np.clip((grey - np.float32(low)) / np.float32(high - low), 0, 1)
    return scaled.astype(np.float32)
