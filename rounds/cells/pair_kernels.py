"""Holds the compiled loops over pairs of masks, which `masks` and `matching` call.

As `run_kernels` is, it is imported when first used; masks are runs as there.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Boxes = NDArray[np.int32]

SMALLEST_TILE = 16  # pixels


@njit(cache=True, nogil=True)
def _tiles(box: Boxes, side: int, across: int, down: int) -> tuple[int, int, int, int]:
    """The columns and rows of the tiles that a box touches, half-open; what lies outside counts for the nearest."""
    left, top = min(max(box[0] // side, 0), across - 1), min(max(box[1] // side, 0), down - 1)
    right = min(max((box[2] - 1) // side, left), across - 1)
    bottom = min(max((box[3] - 1) // side, top), down - 1)
    return left, top, right + 1, bottom + 1


@njit(cache=True, nogil=True)
def _by_tile(boxes: Boxes, side: int, across: int, down: int) -> tuple[Ints, Ints]:
    """Where the boxes of each tile stand, int64 (tiles + 1,), and the numbers of the boxes, tile after tile."""
    upto = np.zeros(across * down + 1, np.int64)
    for box in boxes:
        x0, y0, x1, y1 = _tiles(box, side, across, down)
        for y in range(y0, y1):
            for x in range(x0, x1):
                upto[y * across + x + 1] += 1
    for tile in range(across * down):
        upto[tile + 1] += upto[tile]
    numbers, place = np.empty(upto[-1], np.int64), upto[:-1].copy()
    for number in range(len(boxes)):
        x0, y0, x1, y1 = _tiles(boxes[number], side, across, down)
        for y in range(y0, y1):
            for x in range(x0, x1):
                numbers[place[y * across + x]] = number
                place[y * across + x] += 1
    return upto, numbers


@njit(cache=True, nogil=True)
def _shared(
    starts: Ints, ends: Ints, a: int, last_a: int, other_starts: Ints, other_ends: Ints, b: int, last_b: int
) -> np.int64:
    """The pixels that the runs from a and those from b have in common."""
    total = np.int64(0)
    while a < last_a and b < last_b:
        low, high = max(starts[a], other_starts[b]), min(ends[a], other_ends[b])
        total += max(high - low, 0)
        first = ends[a] < other_ends[b]
        a, b = a + first, b + (not first)
    return total


@njit(cache=True, nogil=True)
def _put_in_order(values: Ints, count: int) -> None:
    """Sort the first few values."""
    for i in range(1, count):
        value, place = values[i], i
        while place and values[place - 1] > value:
            values[place] = values[place - 1]
            place -= 1
        values[place] = value


@njit(cache=True, nogil=True)
def find_pairs(
    starts: Ints, ends: Ints, offsets: Ints, boxes: Boxes,
    other_starts: Ints, other_ends: Ints, other_offsets: Ints, other_boxes: Boxes,
    height: int, width: int,
) -> tuple[Ints, Ints, Ints]:  # fmt: skip
    """The pairs of masks that share pixels, by the first mask, then the second: the two and the pixels, int64 (M,).

    Boxes rule pairs out, those of the second masks sorted into tiles of their mean side: the time grows with the cells
    and the pairs of boxes that meet.
    """
    total = 0
    for box in other_boxes:
        total += box[2] - box[0] + box[3] - box[1]
    side = max(SMALLEST_TILE, total // max(2 * len(other_boxes), 1))
    across, down = width // side + 1, height // side + 1
    upto, numbers = _by_tile(other_boxes, side, across, down)
    seen, near = np.full(len(other_boxes), -1, np.int64), np.empty(len(other_boxes), np.int64)
    found, count = np.empty((3, 4 * len(boxes) + 16), np.int64), 0
    for i in range(len(boxes)):
        x0, y0, x1, y1 = _tiles(boxes[i], side, across, down)
        listed = 0
        for y in range(y0, y1):
            for x in range(x0, x1):
                for place in range(upto[y * across + x], upto[y * across + x + 1]):
                    j = numbers[place]
                    if seen[j] != i:
                        seen[j] = i
                        near[listed] = j
                        listed += 1
        kept = 0
        for j in near[:listed]:
            if not (
                boxes[i, 0] >= other_boxes[j, 2]
                or other_boxes[j, 0] >= boxes[i, 2]
                or boxes[i, 1] >= other_boxes[j, 3]
                or other_boxes[j, 1] >= boxes[i, 3]
            ):
                near[kept] = j
                kept += 1
        _put_in_order(near, kept)
        if count + kept > found.shape[1]:
            larger = np.empty((3, 2 * (count + kept)), np.int64)
            larger[:, :count] = found[:, :count]
            found = larger
        for j in near[:kept]:
            pixels = _shared(
                starts, ends, offsets[i], offsets[i + 1],
                other_starts, other_ends, other_offsets[j], other_offsets[j + 1],
            )  # fmt: skip
            if pixels:
                found[0, count], found[1, count], found[2, count] = i, j, pixels
                count += 1
    return found[0, :count].copy(), found[1, :count].copy(), found[2, :count].copy()


@njit(cache=True, nogil=True)
def _augment(
    column: int, upto: Ints, rows: Ints, owner: Ints, mate: Ints, reached: Ints, came: Ints, queue: Ints, mark: int
) -> bool:
    """Match one more column if a path to a free row exists, moving others aside; in place."""
    queue[0] = column
    head, tail = 0, 1
    while head < tail:
        current = queue[head]
        head += 1
        for place in range(upto[current], upto[current + 1]):
            row = rows[place]
            if row < 0 or reached[row] == mark:
                continue
            reached[row], came[row] = mark, current
            if owner[row] >= 0:
                queue[tail] = owner[row]
                tail += 1
                continue
            while row >= 0:
                mover = came[row]
                before = mate[mover]
                owner[row], mate[mover] = mover, row
                row = before
            return True
    return False


@njit(cache=True, nogil=True)
def gains(rows: Ints, columns: Ints, level: Ints, count: int, gained: NDArray[np.bool_]) -> None:
    """Write into `gained` (P, K) whether a column enlarges the largest matching of the columns before it.

    Pairs of one of `count` rows and a column may be matched at k when their level is above k.
    """
    upto = np.zeros(len(gained) + 1, np.int64)
    for column in columns:
        upto[column + 1] += 1
    for column in range(len(gained)):
        upto[column + 1] += upto[column]
    place, order = upto[:-1].copy(), np.empty(len(rows), np.int64)
    for pair in range(len(rows)):
        order[place[columns[pair]]] = pair
        place[columns[pair]] += 1
    allowed = np.empty(len(rows), np.int64)
    owner, reached, came = np.empty(count, np.int64), np.full(count, -1, np.int64), np.empty(count, np.int64)
    mate, queue = np.empty(len(gained), np.int64), np.empty(len(gained) + 1, np.int64)
    for k in range(gained.shape[1]):
        owner[:] = -1
        mate[:] = -1
        for pair in range(len(order)):
            allowed[pair] = rows[order[pair]] if level[order[pair]] > k else -1
        for column in range(len(gained)):
            mark = k * len(gained) + column
            gained[column, k] = _augment(column, upto, allowed, owner, mate, reached, came, queue, mark)
