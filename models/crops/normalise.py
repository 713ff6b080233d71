"""Normalises an image of any dtype to the channels that a network takes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.store.image_codec import grey, intensity_range

Channels = Literal[1, 3]


def normalise(image: NDArray[Any], channels: Channels = 1) -> NDArray[np.float32]:
    """(H, W) or (H, W, 3) of any numeric dtype -> float32 in [0, 1]: (H, W), or (H, W, 3) for 3 channels.

    The range is taken per image (`image_codec.intensity_range`), because exposure differs between images more
    than cells do; a constant image becomes zeros. Values that are not finite count as 0. With one channel
    colour becomes luminance; with three, the colours keep their balance (their range is that of all three
    together) and grey fills all.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise ValueError(f"expected a (H, W) or (H, W, 3) image with pixels, got shape {image.shape}")
    if channels == 1 or image.ndim == 2:
        scaled = _scaled(grey(image), *intensity_range(image))
        return scaled if channels == 1 else np.repeat(scaled[..., None], 3, axis=2)
    colours = np.nan_to_num(image.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    return _scaled(colours, *intensity_range(colours.reshape(image.shape[0], -1)))


def _scaled(pixels: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    if high <= low:
        return np.zeros_like(pixels)
    scaled: NDArray[np.float32] = np.clip((pixels - np.float32(low)) / np.float32(high - low), 0, 1)
    return scaled.astype(np.float32)
