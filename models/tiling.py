"""Images of any size through a network of fixed appetite: overlapping tiles, blended smoothly.

The outputs are blended before the cells are recovered, so a cell on the border of two tiles is whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Outputs = NDArray[np.float32]
Network = Callable[[NDArray[np.float32]], Outputs]  # (B, H, W) -> (B, C, H, W), sides multiples of `stride`

BATCH_PX = 1 << 19  # pixels that go through the network at once


def tile_starts(side: int, tile: int, overlap: float) -> list[int]:
    """First pixel of each tile along one side: evenly spaced, overlapping by at least `overlap` of a tile.

    >>> tile_starts(100, 64, 0.25), tile_starts(64, 64, 0.25), tile_starts(10, 64, 0.25)
    ([0, 36], [0], [0])
    """
    if side <= tile:
        return [0]
    count = math.ceil((side - tile) / max(1, int(tile * (1 - overlap)))) + 1
    return [round(i * (side - tile) / (count - 1)) for i in range(count)]


def run_tiled(image: NDArray[np.float32], network: Network, tile_px: int, overlap: float, stride: int) -> Outputs:
    """Outputs float32 (C, H, W) of a (H, W) image of any size.

    A side that is not longer than `tile_px` is not cut; an image that needs one tile gets exactly what the
    network says of it. Sides are filled up to a multiple of `stride` with the mirrored image.
    """
    height, width = image.shape
    tall, wide = min(tile_px, _multiple(height, stride)), min(tile_px, _multiple(width, stride))
    padded = np.pad(image, ((0, max(0, tall - height)), (0, max(0, wide - width))), mode="symmetric")
    corners = [
        (y, x) for y in tile_starts(padded.shape[0], tall, overlap) for x in tile_starts(padded.shape[1], wide, overlap)
    ]
    if len(corners) == 1:
        only: Outputs = network(padded[None])[0]
        return only[:, :height, :width]
    taper = np.outer(_ramp(tall, padded.shape[0], overlap), _ramp(wide, padded.shape[1], overlap))
    total: Outputs | None = None
    weight = np.zeros(padded.shape, np.float32)
    for batch in _batches(corners, max(1, BATCH_PX // (tall * wide))):
        outputs = network(np.stack([padded[y : y + tall, x : x + wide] for y, x in batch]))
        if total is None:
            total = np.zeros((outputs.shape[1], *padded.shape), np.float32)
        for (y, x), output in zip(batch, outputs, strict=True):
            total[:, y : y + tall, x : x + wide] += output * taper
            weight[y : y + tall, x : x + wide] += taper
    assert total is not None
    blended: Outputs = (total / weight)[:, :height, :width]
    return blended


def _ramp(tile: int, side: int, overlap: float) -> NDArray[np.float32]:
    """float32 (tile,): weight of a tile's pixels, 1 inside, falling towards its ends, never 0."""
    if side <= tile:
        return np.ones(tile, np.float32)
    from_end = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 0.5
    rising = np.clip(from_end / max(1.0, tile * overlap), 0, 1)
    return (np.sin(rising * np.pi / 2) ** 2).astype(np.float32) + np.float32(1e-4)


def _multiple(side: int, stride: int) -> int:
    return -(-side // stride) * stride


def _batches(corners: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(corners), size):
        yield corners[start : start + size]
