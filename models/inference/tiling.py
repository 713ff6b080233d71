"""Runs a network over overlapping windows of an image, and blends the outputs.

The outputs are blended before the cells are recovered, so a cell on the border of two windows is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.inference.windows import Span, Window, windows

Outputs = NDArray[np.float32]
Network = Callable[[NDArray[np.float32]], Outputs]  # (B, H, W[, D]) -> (B, C, H, W), sides multiples of `stride`

BATCH_PX = 1 << 19  # pixels that go through the network at once


def run_tiled(image: NDArray[np.float32], network: Network, inference: InferenceConfig, stride: int) -> Outputs:
    """Outputs float32 (C, H, W) of a (H, W) or (H, W, D) image of any size; the network takes its windows.

    An image that needs one window gets the outputs of the network unchanged. Windows are filled up to a
    multiple of `stride` with their mirror image.
    """
    height, width = image.shape[:2]
    placed = windows(height, width, inference)
    tall = _multiple(max(_length(window.y) for window in placed), stride)
    wide = _multiple(max(_length(window.x) for window in placed), stride)
    total: Outputs | None = None
    weight = np.zeros((height, width), np.float32)
    for batch in _batches(placed, max(1, BATCH_PX // (tall * wide))):
        outputs = network(np.stack([_cut(image, window, tall, wide) for window in batch]))
        if len(placed) == 1:
            only: Outputs = outputs[0][:, :height, :width]
            return only
        if total is None:
            total = np.zeros((outputs.shape[1], height, width), np.float32)
        for window, output in zip(batch, outputs, strict=True):
            rows, columns = slice(window.y.start, window.y.stop), slice(window.x.start, window.x.stop)
            taper = np.outer(_ramp(window.y, height), _ramp(window.x, width))
            total[:, rows, columns] += output[:, : taper.shape[0], : taper.shape[1]] * taper
            weight[rows, columns] += taper
    assert total is not None
    blended: Outputs = total / weight
    return blended


def _cut(image: NDArray[np.float32], window: Window, tall: int, wide: int) -> NDArray[np.float32]:
    cut = image[window.y.start : window.y.stop, window.x.start : window.x.stop]
    missing = [(0, tall - cut.shape[0]), (0, wide - cut.shape[1]), *[(0, 0)] * (image.ndim - 2)]
    return np.pad(cut, missing, mode="symmetric")


def _ramp(span: Span, side: int) -> NDArray[np.float32]:
    """float32: weight of a window's pixels, 1 where it is alone, falling towards its ends, never 0."""
    length = _length(span)
    if length >= side:
        return np.ones(length, np.float32)
    shared = 2 * max(span.core_start - span.start, span.stop - span.core_stop)
    from_end = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    rising = np.clip(from_end / max(1, shared), 0, 1)
    return (np.sin(rising * np.pi / 2) ** 2).astype(np.float32) + np.float32(1e-4)


def _length(span: Span) -> int:
    return span.stop - span.start


def _multiple(side: int, stride: int) -> int:
    return -(-side // stride) * stride


def _batches(placed: list[Window], size: int) -> Iterator[list[Window]]:
    for start in range(0, len(placed), size):
        yield placed[start : start + size]
