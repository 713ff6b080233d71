"""Averages the outputs of a flow network over the views and scales of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.inference.tta import turn, turn_outputs_back

Outputs = NDArray[np.float32]


def mean_of_views(
    pixels: Outputs, inference: InferenceConfig, outputs_of: Callable[[Outputs], Outputs]
) -> tuple[Outputs, Outputs]:
    """Mean (C, H, W) of the outputs over all scales and views of (H, W) or (H, W, 3) pixels, and the spread (H, W).

    `outputs_of` returns (C, h, w) for (h, w) or (h, w, 3). Flow vectors are turned back with the view; a scale
    leaves them as they are, for they are directions. The spread is the standard deviation of the
    probability between the views; zero with a single one.
    """
    channels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    _, height, width = channels.shape
    total: Any = 0.0
    squared: Any = 0.0
    for scale in inference.scales:
        scaled = _resized(channels, max(1, round(height * scale)), max(1, round(width * scale)))
        for view in inference.tta:
            turned = turn(scaled, view)
            view_pixels = turned[0] if pixels.ndim == 2 else np.moveaxis(turned, 0, -1)
            outputs = _resized(turn_outputs_back(outputs_of(np.ascontiguousarray(view_pixels)), view), height, width)
            total = total + outputs
            squared = squared + outputs[0].astype(np.float64) ** 2
    n = len(inference.scales) * len(inference.tta)
    mean = (total / np.float32(n)).astype(np.float32)
    with np.errstate(invalid="ignore"):  # an output that is not finite stays so; the predictor looks for it
        variance = np.maximum(squared / n - mean[0].astype(np.float64) ** 2, 0)
    return mean, np.sqrt(variance).astype(np.float32)


def _resized(channels: Outputs, height: int, width: int) -> Outputs:
    """(C, H, W) at another size, averaged by area when it shrinks."""
    if channels.shape[1:] == (height, width):
        return channels
    method = cv2.INTER_AREA if height * width < channels[0].size else cv2.INTER_LINEAR
    # One by one: OpenCV averages at most four channels.
    resized = [cv2.resize(np.ascontiguousarray(c), (width, height), interpolation=method) for c in channels]
    return np.stack(resized)
