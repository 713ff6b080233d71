"""Traces masks to outlines and fills outlines to masks: rings along the edges of pixels, in pixel units.

The pixel in column x and row y is the square from (x, y) to (x + 1, y + 1). A ring is an array (N, 2) of x, y
without its first point repeated at the end. `trace` and `fill` are exact inverses of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from scipy import ndimage

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.rle import Bitmap

MAX_CROSSINGS = 1 << 18  # crossings of the rings of one cell with the lines through pixel centres

Ring = NDArray[np.int64]
Polygon = list[Ring]  # the outer ring, then the holes


class OutlineError(ValueError):
    """Rings that are no cell of the image; the message says why."""


@dataclass(frozen=True, slots=True)
class Filled:
    """A mask as Instances has it: COCO-compressed RLE, box x0, y0, x1, y1 (half-open), area in pixels."""

    rle: bytes
    bbox: tuple[int, int, int, int]
    area: int


def fill(rings: Sequence[NDArray[Any]], height: int, width: int) -> Filled:
    """The pixels of an image whose centres lie inside the rings by the even-odd rule.

    `rings` hold finite numbers, (N, 2) as x, y. Of centres on the outline those at the right end of a row count as
    inside, those at its left end do not, as in ImageJ (ij.process.PolygonFiller). What lies beyond the image is cut
    off. Time and memory grow with the outline, not with the area.
    Raises OutlineError for points further away than the image is large, for an outline with more than
    MAX_CROSSINGS crossings, and when no centre is inside.
    """
    toggles = _toggles(rings, height, width)
    if not len(toggles):
        raise OutlineError(f"it holds no pixel centre of the image of {width}x{height}")
    starts, ends = toggles[0::2], toggles[1::2]
    counts = np.diff(toggles, prepend=0).tolist()
    tail = height * width - int(ends[-1])
    counts += [tail] if tail else []
    rle: bytes = coco.frPyObjects({"counts": counts, "size": [height, width]}, height, width)["counts"]
    return Filled(rle, _box(starts, ends, height), int((ends - starts).sum()))


def is_speck(rings: Sequence[NDArray[Any]]) -> bool:
    """Whether rings (N, 2) hold less than a pixel: too little to be a cell that was missed."""
    points = [np.asarray(ring, np.float64) for ring in rings if len(ring)]
    return all(np.isfinite(ring).all() for ring in points) and sum(abs(signed_area(ring)) for ring in points) < 1


def united(parts: Sequence[Filled], height: int, width: int) -> Filled:
    """The pixels of several filled outlines of one image together; their overlaps count once."""
    if len(parts) == 1:
        return parts[0]
    whole = coco.merge([{"counts": part.rle, "size": [height, width]} for part in parts])
    boxes = np.array([part.bbox for part in parts])
    x0, y0 = boxes[:, :2].min(axis=0).tolist()
    x1, y1 = boxes[:, 2:].max(axis=0).tolist()
    return Filled(whole["counts"], (x0, y0, x1, y1), int(coco.area(whole)))


def to_instances(cells: Sequence[Filled], height: int, width: int, **columns: Any) -> Instances:
    """The Instances of filled outlines; `columns` go to Instances.build."""
    boxes = np.array([cell.bbox for cell in cells], dtype=np.int32)
    return Instances.build(
        height, width, [cell.rle for cell in cells], boxes, np.array([cell.area for cell in cells]), **columns
    )


def trace(crop: Bitmap, x0: int, y0: int) -> list[Polygon]:
    """The outlines of a bool (h, w) bitmap whose corner stands at x0, y0: a polygon per part, holes included.

    Parts are 4-connected: pixels that share but a corner are two parts. No ring passes a point twice. Outer rings
    run clockwise as seen on a screen (positive shoelace area with y downwards), holes the other way; both begin
    anywhere. Points are where a ring turns, and where it was split.
    """
    grid = _corners(crop)
    rings = [piece for path in _paths(grid) for piece in _simple(path, grid)]
    areas = [signed_area(ring) for ring in rings]
    outer = [ring for ring, area in zip(rings, areas, strict=True) if area > 0]
    holes = [ring for ring, area in zip(rings, areas, strict=True) if area < 0]
    offset = np.array([x0, y0])
    return [[ring + offset for ring in polygon] for polygon in _grouped(outer, holes, crop)]


def signed_area(ring: NDArray[Any]) -> float:
    """Area of a ring by the shoelace formula, positive when it runs clockwise as seen on a screen."""
    x, y = ring[:, 0], ring[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


# --- filling ------------------------------------------------------------------------------------------


def _toggles(rings: Sequence[NDArray[Any]], height: int, width: int) -> NDArray[np.int64]:
    """Where the mask changes along the columns of the image (position x * height + y), rising, an even number."""
    start = np.concatenate([np.asarray(ring, np.float64) for ring in rings] or [np.zeros((0, 2))])
    end = np.concatenate([np.roll(np.asarray(ring, np.float64), -1, axis=0) for ring in rings] or [start])
    _check_near(start, height, width)
    backwards = (start[:, 0] > end[:, 0])[:, None]
    left, right = np.where(backwards, end, start), np.where(backwards, start, end)
    # A segment crosses the columns whose centre c has left x < c <= right x.
    first = np.clip(np.floor(left[:, 0] + 0.5), 0, width).astype(np.int64)
    crossed = np.clip(np.floor(right[:, 0] + 0.5), 0, width).astype(np.int64) - first
    if crossed.sum() > MAX_CROSSINGS:
        raise OutlineError(f"its outline crosses {crossed.sum()} columns of pixels, the limit is {MAX_CROSSINGS}")
    segment = np.repeat(np.arange(len(left)), crossed)
    column = first[segment] + np.arange(len(segment)) - np.repeat(np.cumsum(crossed) - crossed, crossed)
    run, rise = right[segment, 0] - left[segment, 0], right[segment, 1] - left[segment, 1]
    y = left[segment, 1] + (column + 0.5 - left[segment, 0]) * rise / run
    below = np.where(rise < 0, np.floor(y + 0.5), np.ceil(y - 0.5))
    row = np.clip(below, 0, height).astype(np.int64)
    return _odd(column * height + row)


def _check_near(points: NDArray[np.float64], height: int, width: int) -> None:
    near = ((points >= (-width, -height)) & (points <= (2 * width, 2 * height))).all(axis=1)
    if not near.all():
        x, y = points[np.flatnonzero(~near)[0]].tolist()
        raise OutlineError(f"its point ({x:g}, {y:g}) lies far outside the image of {width}x{height}")


def _odd(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values that occur an odd number of times, rising."""
    found, counts = np.unique(values, return_counts=True)
    odd: NDArray[np.int64] = found[counts % 2 == 1]
    return odd


def _box(starts: NDArray[np.int64], ends: NDArray[np.int64], height: int) -> tuple[int, int, int, int]:
    """Box of column-major runs; one that goes on into the next column holds the lowest and the highest row."""
    x0, x1 = int(starts[0]) // height, (int(ends[-1]) - 1) // height + 1
    if (starts // height != (ends - 1) // height).any():
        return x0, 0, x1, height
    return x0, int((starts % height).min()), x1, int(((ends - 1) % height).max()) + 1


# --- tracing ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Corners:
    """The corners of all outlines, in the order of rows.

    Corner i is joined with i ^ 1 along its row and with `below[i]` along its column. `hole` tells whether the
    pixel to its lower right is background. `split`: some point has two corners, of pixels that meet there.
    """

    points: Ring
    below: list[int]
    hole: list[bool]
    split: bool


def _corners(crop: Bitmap) -> _Corners:
    padded = np.pad(crop, 1).astype(np.int8)
    upper_left, lower_right = padded[:-1, :-1], padded[1:, 1:]
    around = upper_left + padded[:-1, 1:] + padded[1:, :-1] + lower_right
    double = (around == 2) & (upper_left == lower_right)
    y, x = np.nonzero(double | (around % 2 == 1))
    twice = double[y, x]
    falling = twice & (upper_left[y, x] == 1)  # the pixels that meet lie at the upper left and the lower right
    repeats = np.where(twice, 2, 1)
    second = np.zeros(int(repeats.sum()), np.int64)
    second[np.cumsum(repeats)[twice] - 1] = 1
    y, x, twice, falling = (np.repeat(values, repeats) for values in (y, x, twice, falling))
    # Left before right along a row; above before below along a column.
    order = np.lexsort((np.where(twice & ~falling, 1 - second, second), y, x))
    below = np.empty(len(order), np.int64)
    below[order] = order.reshape(-1, 2)[:, ::-1].reshape(-1)
    hole = lower_right[y, x] == 0
    return _Corners(np.stack([x, y], axis=1), below.tolist(), hole.tolist(), bool(twice.any()))


def _paths(corners: _Corners) -> list[list[int]]:
    """The corners of each closed path, with the foreground on its right hand."""
    below, hole = corners.below, corners.hole
    visited = bytearray(len(below))
    paths = []
    for start in range(len(below)):
        if visited[start]:
            continue
        # The first corner of a path is its upper left one: an outer path leaves it to the right, a hole downwards.
        path, corner, along_row = [], start, not hole[start]
        while not visited[corner]:
            visited[corner] = 1
            path.append(corner)
            corner = corner ^ 1 if along_row else below[corner]
            along_row = not along_row
        paths.append(path)
    return paths


def _simple(path: list[int], corners: _Corners) -> list[Ring]:
    """The rings of a path, cut where it passes a point for the second time."""
    points = corners.points[path]
    if not corners.split:
        return [points]
    keys = [(x, y) for x, y in points.tolist()]
    pieces: list[list[int]] = []
    current: list[int] = []
    place: dict[tuple[int, int], int] = {}
    for i, key in enumerate(keys):
        if key not in place:
            place[key] = len(current)
            current.append(i)
            continue
        kept = place[key] + 1
        pieces.append(current[kept - 1 :])
        for j in current[kept:]:
            del place[keys[j]]
        del current[kept:]
    return [points[piece] for piece in (*pieces, current)]


def _grouped(outer: Sequence[Ring], holes: Sequence[Ring], crop: Bitmap) -> list[Polygon]:
    """Each outer ring with the holes in its part."""
    if len(outer) <= 1 or not holes:
        return [[ring, *holes] for ring in outer]
    part, _ = ndimage.label(crop)
    polygons = {int(part[y, x]): [ring] for ring in outer for x, y in [_upper_left(ring)]}
    for ring in holes:
        x, y = _upper_left(ring)
        polygons[int(part[y - 1, x])].append(ring)  # above a hole is the part that it is in
    return list(polygons.values())


def _upper_left(ring: Ring) -> tuple[int, int]:
    """The first point of a ring in the order of rows."""
    x, y = ring[np.lexsort((ring[:, 0], ring[:, 1]))[0]].tolist()
    return x, y
