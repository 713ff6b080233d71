"""Averages the outputs of a flow network over the views and scales of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.training import InferenceConfig, View
from cellsemi.models.inference.tta import turn, turn_outputs_back

Outputs = NDArray[np.float32]


def mean_of_views(
    images: Sequence[Outputs],
    inference: InferenceConfig,
    outputs_of: Callable[[list[Outputs]], list[Outputs]],
    at_once_px: int,
) -> list[tuple[Outputs, Outputs]]:
    """Of each image, the mean (C, H, W) of its outputs over all scales and views and the spread (H, W).

    Images are (H, W) or (H, W, 3); `outputs_of` returns (C, h, w) for each (h, w) or (h, w, 3) that it is given. It is
    given views of at most `at_once_px` pixels at once, and at least one. Flow vectors are turned back with the view; a
    scale leaves them as they are, for they are directions. The spread is the standard deviation of the
    probability between the views; zero with a single one.
    """
    sums = [_Sum(image.shape[0], image.shape[1]) for image in images]
    for together in _together(_views(images, inference), at_once_px):
        found = outputs_of([pixels for _, _, pixels in together])
        for (place, view, _), outputs in zip(together, found, strict=True):
            sums[place].add(outputs, view)
    return [each.mean_and_spread() for each in sums]


Turned = tuple[int, View, Outputs]  # the place of an image, a view, and the pixels of the view


def _views(images: Sequence[Outputs], inference: InferenceConfig) -> Iterator[Turned]:
    for place, pixels in enumerate(images):
        channels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        _, height, width = channels.shape
        for scale in inference.on_image(height, width).scales:
            scaled = resized(channels, max(1, round(height * scale)), max(1, round(width * scale)))
            for view in inference.tta:
                turned = turn(scaled, view)
                yield place, view, np.ascontiguousarray(turned[0] if pixels.ndim == 2 else np.moveaxis(turned, 0, -1))


def _together(views: Iterator[Turned], at_once_px: int) -> Iterator[list[Turned]]:
    held: list[Turned] = []
    held_px = 0
    for each in views:
        size = each[2].shape[0] * each[2].shape[1]
        if held and held_px + size > at_once_px:
            yield held
            held, held_px = [], 0
        held.append(each)
        held_px += size
    if held:
        yield held


class _Sum:
    """The sums over the views of one image of a size."""

    def __init__(self, height: int, width: int) -> None:
        self._size = (height, width)
        self._total: Any = 0.0
        self._squared: Any = 0.0
        self._count = 0

    def add(self, outputs: Outputs, view: View) -> None:
        """Add the outputs of a view."""
        back = resized(turn_outputs_back(outputs, view), *self._size)
        self._total = self._total + back
        self._squared = self._squared + back[0].astype(np.float64) ** 2
        self._count += 1

    def mean_and_spread(self) -> tuple[Outputs, Outputs]:
        """The mean of all channels, and the standard deviation of the first."""
        mean = (self._total / np.float32(self._count)).astype(np.float32)
        with np.errstate(invalid="ignore"):  # an output that is not finite stays so; the predictor looks for it
            variance = np.maximum(self._squared / self._count - mean[0].astype(np.float64) ** 2, 0)
        return mean, np.sqrt(variance).astype(np.float32)


def resized(channels: Outputs, height: int, width: int) -> Outputs:
    """(C, H, W) at another size, averaged by area when it shrinks."""
    if channels.shape[1:] == (height, width):
        return channels
    method = cv2.INTER_AREA if height * width < channels[0].size else cv2.INTER_LINEAR
    # One by one: OpenCV averages at most four channels.
    resized = [cv2.resize(np.ascontiguousarray(c), (width, height), interpolation=method) for c in channels]
    return np.stack(resized)
