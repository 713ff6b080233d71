"""From an image of any kind to the one channel that the network sees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.images import grey, intensity_range


def normalise(image: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W) or (H, W, 3) of any numeric dtype -> float32 (H, W) in [0, 1].

    The range is taken per image (`images.intensity_range`), because exposure differs between images more
    than cells do; a constant image becomes zeros. Values that are not finite count as 0.
    """
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise ValueError(f"expected a (H, W) or (H, W, 3) image with pixels, got shape {image.shape}")
    low, high = intensity_range(image)
    if high <= low:
        return np.zeros(image.shape[:2], np.float32)
    scaled: NDArray[np.float32] = np.clip((grey(image) - np.float32(low)) / np.float32(high - low), 0, 1)
    return scaled.astype(np.float32)
