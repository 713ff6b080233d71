"""Places the windows of a tiled image, and assigns each part of the image to one of them.

By size and overlap, by size and stride (301x302 at 73x134: the Sartorius team of docs/models.md), or by a
grid (7x7 with windows of 3x3: its LIVECell team). The cores divide the image: each pixel is in one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.training import InferenceConfig

MIN_GRID_PX = 8  # an image whose grid would be finer is not cut


@dataclass(frozen=True, slots=True)
class Span:
    """One window along one side: pixels start..stop, of which core_start..core_stop are its own."""

    start: int
    stop: int
    core_start: int
    core_stop: int


@dataclass(frozen=True, slots=True)
class Window:
    """A window of an image."""

    y: Span
    x: Span


def windows(height: int, width: int, inference: InferenceConfig) -> list[Window]:
    """The windows of an image, row by row. They cover it, and never leave it."""
    return [Window(y, x) for y in spans(height, 0, inference) for x in spans(width, 1, inference)]


def spans(side: int, axis: int, inference: InferenceConfig) -> list[Span]:
    """The windows along axis 0 (y) or 1 (x) of a side of that many pixels.

    >>> [(s.start, s.stop, s.core_start, s.core_stop) for s in spans(100, 0, InferenceConfig(tile_px=64))]
    [(0, 64, 0, 50), (36, 100, 50, 100)]
    """
    if inference.grid is not None:
        grid = inference.grid
        cells, window_cells = (grid.rows, grid.window_rows) if axis == 0 else (grid.columns, grid.window_columns)
        if side < MIN_GRID_PX * cells:
            return [Span(0, side, 0, side)]
        edges = [round(i * side / cells) for i in range(cells + 1)]
        return _with_cores([(edges[i], edges[i + window_cells]) for i in range(cells - window_cells + 1)])
    tile = inference.tile_size[axis]
    if side <= tile:
        return [Span(0, side, 0, side)]
    stride = window_step(inference, axis)
    count = math.ceil((side - tile) / stride) + 1
    starts = [round(i * (side - tile) / (count - 1)) for i in range(count)]
    return _with_cores([(start, start + tile) for start in starts])


def fullest(placed: Sequence[Window], centres: NDArray[np.float64]) -> Window:
    """The window that holds most of the points (N, 2) as x, y; of equal ones the first."""
    counts = [
        int(
            (
                (centres >= (window.x.start, window.y.start)).all(axis=1)
                & (centres < (window.x.stop, window.y.stop)).all(axis=1)
            ).sum()
        )
        for window in placed
    ]
    return placed[int(np.argmax(counts))]


def part_of(window: Window, scale: float, height: int, width: int) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1: what a window of an image at a scale shows of the image itself, of height x width pixels."""
    x0, y0 = round(window.x.start / scale), round(window.y.start / scale)
    x1, y1 = round(window.x.stop / scale), round(window.y.stop / scale)
    return x0, y0, max(x0 + 1, min(width, x1)), max(y0 + 1, min(height, y1))


def window_step(inference: InferenceConfig, axis: int) -> int:
    """The largest distance of two windows of a size along axis 0 (y) or 1 (x), in pixels."""
    if inference.stride_px is not None:
        return inference.stride_px[axis]
    return max(1, int(inference.tile_size[axis] * (1 - inference.overlap)))


def _with_cores(ends: list[tuple[int, int]]) -> list[Span]:
    """Spans with cores: the border between two cores is the middle of what both windows cover."""
    borders = [ends[0][0], *((ends[i][1] + ends[i + 1][0]) // 2 for i in range(len(ends) - 1)), ends[-1][1]]
    return [Span(*pair, borders[i], borders[i + 1]) for i, pair in enumerate(ends)]
