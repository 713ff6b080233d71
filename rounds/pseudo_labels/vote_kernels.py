"""Holds the compiled loops over the bitmaps of the members of clusters, which `fusion_methods` calls.

Imported when first used: numba takes a second. The bitmaps of all cells stand one after another in `pixels`, that of
cell i from `upto[i]` on, (y1 - y0, x1 - x0) in its box. The members of cluster k are those from `offsets[k]` on; its
bitmap is written into `drawn`, in the box of all of them, from `drawn_upto[k]` on.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flat = NDArray[np.bool_]


@njit(cache=True, nogil=True)
def _root(parent: Ints, run: int) -> int:
    while parent[run] != run:
        run = parent[run]
    return run


@njit(cache=True, nogil=True)
def _largest_part(bitmap: Flat, wide: int, starts: Ints, ends: Ints, parent: Ints, area: Ints) -> None:
    """Leave the largest 8-connected part of a bitmap (h * w,); of equal ones the first in reading order.

    Runs along the rows are joined to those they touch in the row above; the first of a part names it.
    """
    count, above, row_begin = 0, 0, 0
    for row in range(0, len(bitmap), wide):
        above, row_begin = row_begin, count
        place = row
        while place < row + wide:
            if not bitmap[place]:
                place += 1
                continue
            first = place
            while place < row + wide and bitmap[place]:
                place += 1
            starts[count], ends[count], parent[count], area[count] = first, place, count, place - first
            for other in range(above, row_begin):
                if starts[other] + wide <= place and ends[other] + wide >= first:
                    one, two = _root(parent, other), _root(parent, count)
                    if one != two:
                        low, high = min(one, two), max(one, two)
                        parent[high] = low
                        area[low] += area[high]
            count += 1
    best = 0
    for run in range(count):
        if parent[run] == run and area[run] > area[best]:
            best = run
    for run in range(count):
        if _root(parent, run) != best:
            bitmap[starts[run] : ends[run]] = False


@njit(cache=True, nogil=True)
def _is_member(found: Flat, count: int, bitmap: Flat, wide: int, start: int, across: int) -> bool:
    """Whether a bitmap of so many columns, at `start` in the found one of `across`, is all its `count` pixels."""
    own, place = 0, 0
    for row in range(len(bitmap) // wide):
        for column in range(wide):
            if bitmap[place]:
                own += 1
                if not found[start + row * across + column]:
                    return False
            place += 1
    return own == count


@njit(cache=True, nogil=True)
def majority(
    pixels: Flat, upto: Ints, boxes: Ints, members: Ints, offsets: Ints, weights: Floats, totals: Floats,
    common: Ints, drawn: Flat, drawn_upto: Ints, chosen: Ints,
) -> None:  # fmt: skip
    """Draw the pixels that members with at least half of the total weight hold, see fusion_methods.majority.

    `weights` stand beside `members`, `totals` and `common`, the boxes, are of the clusters. `chosen` gets the member
    whose mask is the result, -1 where it is what was drawn.
    """
    largest = 0
    for k in range(len(common)):
        largest = max(largest, drawn_upto[k + 1] - drawn_upto[k])
    all_votes, runs = np.empty(largest), np.empty((4, largest), np.int64)
    for k in range(len(common)):
        size, wide = drawn_upto[k + 1] - drawn_upto[k], common[k, 2] - common[k, 0]
        votes, found = all_votes[:size], drawn[drawn_upto[k] : drawn_upto[k + 1]]
        votes[:] = 0
        for place in range(offsets[k], offsets[k + 1]):
            cell = members[place]
            own = boxes[cell, 2] - boxes[cell, 0]
            start = (boxes[cell, 1] - common[k, 1]) * wide + boxes[cell, 0] - common[k, 0]
            for y in range(boxes[cell, 3] - boxes[cell, 1]):
                for x in range(own):
                    if pixels[upto[cell] + y * own + x]:
                        votes[start + y * wide + x] += weights[place]
        count = 0
        for place in range(size):
            found[place] = 2 * votes[place] >= totals[k]
            count += found[place]
        chosen[k] = -1
        if not count:
            chosen[k] = np.argmax(weights[offsets[k] : offsets[k + 1]])
            continue
        for place in range(offsets[k], offsets[k + 1]):
            cell = members[place]
            start = (boxes[cell, 1] - common[k, 1]) * wide + boxes[cell, 0] - common[k, 0]
            bitmap = pixels[upto[cell] : upto[cell + 1]]
            if _is_member(found, count, bitmap, boxes[cell, 2] - boxes[cell, 0], start, wide):
                chosen[k] = place - offsets[k]
                break
        if chosen[k] < 0:
            _largest_part(found, wide, runs[0], runs[1], runs[2], runs[3])


@njit(cache=True, nogil=True)
def union(
    pixels: Flat, upto: Ints, boxes: Ints, members: Ints, offsets: Ints, common: Ints, drawn: Flat, drawn_upto: Ints
) -> None:
    """Draw the pixels of any member; `drawn` is False at first."""
    for k in range(len(common)):
        wide = common[k, 2] - common[k, 0]
        for cell in members[offsets[k] : offsets[k + 1]]:
            own = boxes[cell, 2] - boxes[cell, 0]
            start = drawn_upto[k] + (boxes[cell, 1] - common[k, 1]) * wide + boxes[cell, 0] - common[k, 0]
            for y in range(boxes[cell, 3] - boxes[cell, 1]):
                for x in range(own):
                    if pixels[upto[cell] + y * own + x]:
                        drawn[start + y * wide + x] = True
