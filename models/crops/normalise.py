"""Normalises an image of any dtype to the channels that a network takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.store.image_codec import grey, intensity_range

Channels = Literal[1, 3]


@dataclass(frozen=True, slots=True)
class Scaling:
    """How the pixels of one image, or of any part of it, become float32 in [0, 1].

    The range is taken per image (`image_codec.intensity_range`), because exposure differs between images more
    than cells do; a constant image becomes zeros. Values that are not finite count as 0. With one channel
    colour becomes luminance; with three, the colours keep their balance (their range is that of all three
    together) and grey fills all.
    """

    low: float
    high: float
    channels: Channels

    @classmethod
    def of(cls, image: NDArray[Any], channels: Channels) -> tuple[NDArray[Any], Self]:
        """The pixels to keep of a (H, W) or (H, W, 3) image of any numeric dtype, and how they are scaled.

        They are those of the image; only a colour image of which one channel is wanted becomes grey, float32.
        """
        if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
            raise ValueError(f"expected a (H, W) or (H, W, 3) image with pixels, got shape {image.shape}")
        if image.ndim == 3 and channels == 3:
            return image, cls(*intensity_range(_finite(image).reshape(image.shape[0], -1)), channels)
        return (grey(image) if image.ndim == 3 else image), cls(*intensity_range(image), channels)

    def __call__(self, part: NDArray[Any]) -> NDArray[np.float32]:
        """A part (h, w) or (h, w, 3) of what `of` keeps -> (h, w), or (h, w, 3) for 3 channels; also of no pixels."""
        scaled = _scaled(_finite(part), self.low, self.high)
        return np.repeat(scaled[..., None], 3, axis=2) if self.channels == 3 and part.ndim == 2 else scaled


def normalise(image: NDArray[Any], channels: Channels = 1) -> NDArray[np.float32]:
    """(H, W) or (H, W, 3) of any numeric dtype -> float32 in [0, 1]: (H, W), or (H, W, 3) for 3 channels; `Scaling`."""
    stored, scaling = Scaling.of(image, channels)
    return scaling(stored)


def _finite(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """float32; what is not finite counts as 0."""
    numbers = pixels.astype(np.float32)
    if pixels.dtype.kind == "f" and not np.isfinite(numbers).all():
        numbers = np.nan_to_num(numbers, nan=0.0, posinf=0.0, neginf=0.0)
    return numbers


def _scaled(pixels: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    if high <= low:
        return np.zeros_like(pixels)
    scaled: NDArray[np.float32] = np.clip((pixels - np.float32(low)) / np.float32(high - low), 0, 1)
    return scaled.astype(np.float32)
