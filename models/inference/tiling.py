"""Runs a network over overlapping windows of images, and blends the outputs.

The outputs are blended before the cells are recovered, so a cell on the border of two windows is whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.inference.less_memory import at_once, smaller_tiles
from cellsemi.models.inference.windows import Span, Window, windows
from cellsemi.rounds import pulse

Outputs = NDArray[np.float32]
Network = Callable[[NDArray[np.float32]], Outputs]  # (B, H, W[, D]) -> (B, C, H, W), sides multiples of `stride`

BATCH_PX = 1 << 19  # pixels that go through the network at once
SHARED_BATCH_PX = 1 << 21  # the same where windows of several images share a batch: a GPU is idle with fewer


def run_tiled(
    images: Sequence[NDArray[np.float32]],
    network: Network,
    inference: InferenceConfig,
    stride: int,
    shared: bool = False,
) -> list[Outputs]:
    """Outputs float32 (C, H, W) of each (H, W) or (H, W, D) image of any size; the network takes their windows.

    An image that needs one window gets the outputs of the network unchanged. Windows are filled up to a
    multiple of `stride` with their mirror image. With `shared`, windows of one size share a batch whatever image they
    are of; else a batch holds windows of one image.
    """
    most_px = SHARED_BATCH_PX if shared else BATCH_PX
    blends = [_Blend(image, smaller_tiles(inference, most_px, *image.shape[:2]), stride) for image in images]
    groups: dict[tuple[int, ...], list[tuple[_Blend, Window]]] = {}
    for number, blend in enumerate(blends):
        key = (0 if shared else number, *blend.size, *blend.image.shape[2:])
        groups.setdefault(key, []).extend((blend, window) for window in blend.windows)
    for (_, tall, wide, *_), members in groups.items():
        for batch in _batches(members, max(1, at_once(most_px) // (tall * wide))):
            pulse.beat()
            outputs = network(np.stack([blend.cut(window) for blend, window in batch]))
            for (blend, window), output in zip(batch, outputs, strict=True):
                blend.add(window, output)
    return [blend.outputs() for blend in blends]


class _Blend:
    """The outputs of one image as its windows come in; `size` is that of each window, filled up."""

    def __init__(self, image: NDArray[np.float32], inference: InferenceConfig, stride: int) -> None:
        self.image = image
        self.windows = windows(image.shape[0], image.shape[1], inference)
        self.size = (
            _multiple(max(_length(window.y) for window in self.windows), stride),
            _multiple(max(_length(window.x) for window in self.windows), stride),
        )
        self._total: Outputs | None = None
        self._weight = np.zeros(image.shape[:2] if len(self.windows) > 1 else (0, 0), np.float32)

    def cut(self, window: Window) -> NDArray[np.float32]:
        """The pixels of a window, filled up to `size`."""
        return _cut(self.image, window, *self.size)

    def add(self, window: Window, output: Outputs) -> None:
        """Blend the output of a window in."""
        height, width = self.image.shape[:2]
        if len(self.windows) == 1:
            self._total = output[:, :height, :width]
            return
        if self._total is None:
            self._total = np.zeros((len(output), height, width), np.float32)
        rows, columns = slice(window.y.start, window.y.stop), slice(window.x.start, window.x.stop)
        taper = np.outer(_ramp(window.y, height), _ramp(window.x, width))
        self._total[:, rows, columns] += output[:, : taper.shape[0], : taper.shape[1]] * taper
        self._weight[rows, columns] += taper

    def outputs(self) -> Outputs:
        """The outputs of the image, when all its windows are in."""
        assert self._total is not None
        if len(self.windows) == 1:
            return self._total
        blended: Outputs = self._total / self._weight
        return blended


def _cut(image: NDArray[np.float32], window: Window, tall: int, wide: int) -> NDArray[np.float32]:
    cut = image[window.y.start : window.y.stop, window.x.start : window.x.stop]
    missing = [(0, tall - cut.shape[0]), (0, wide - cut.shape[1]), *[(0, 0)] * (image.ndim - 2)]
    return np.pad(cut, missing, mode="symmetric")


def filled_up(pixels: NDArray[np.float32], stride: int) -> NDArray[np.float32]:
    """(h, w) or (h, w, D) pixels of one window, filled up to a multiple of `stride` with their mirror image."""
    whole = Window(*(Span(0, side, 0, side) for side in pixels.shape[:2]))
    return _cut(pixels, whole, *(_multiple(side, stride) for side in pixels.shape[:2]))


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


def _batches(members: list[tuple[_Blend, Window]], size: int) -> Iterator[list[tuple[_Blend, Window]]]:
    for start in range(0, len(members), size):
        yield members[start : start + size]
