"""Holds the compiled loops over the run lengths of masks, which `rle` and `masks` call.

Imported when first used: numba takes a second.

A mask is a list of runs, half-open intervals of foreground pixels in column-major order of the whole image, sorted and
disjoint. The runs of many masks stand one after another; `offsets` int64 (N + 1,) says where each begins. All loops
release the interpreter lock and are compiled once a machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]

CUT_OFF, WRONG_SIZE = 1, 2  # problems of a text that is no mask of the image


@njit(cache=True, nogil=True)
def decode_all(
    text: NDArray[np.uint8], text_offsets: Ints, pixels: int, starts: Ints, ends: Ints, offsets: Ints
) -> tuple[int, int]:
    """Decode COCO-compressed texts, one after another in `text`, into runs; `offsets` gets where each mask begins.

    Returns (mask, problem) of the first one that is no mask of an image of so many pixels, else (-1, 0). The arrays
    hold len(text) / 2 + 1 runs for each mask. Empty runs are left out, runs that touch are joined.
    5 bits a character, 32 marks that more follow, 16 is the sign; from the fourth count on each is the difference to
    the one two before (pycocotools, maskApi.c).
    """
    found = 0
    for mask in range(len(text_offsets) - 1):
        offsets[mask] = found
        place, stop = text_offsets[mask], text_offsets[mask + 1]
        position, before, last, number = np.int64(0), np.int64(0), np.int64(0), 0
        while place < stop:
            value, shift, more = np.int64(0), 0, True
            while more:
                if place == stop:
                    return mask, CUT_OFF
                code = np.int64(text[place]) - 48
                place += 1
                value |= (code & 31) << (5 * shift)
                more = (code & 32) != 0
                shift += 1
                if not more and (code & 16) != 0:
                    value |= np.int64(-1) << (5 * shift)
            if number > 2:
                value += before
            if value < 0 or position + value > pixels:
                return mask, WRONG_SIZE
            before, last = last, value
            if number % 2 and value:
                if found > offsets[mask] and ends[found - 1] == position:
                    ends[found - 1] = position + value
                else:
                    starts[found] = position
                    ends[found] = position + value
                    found += 1
            position += value
            number += 1
        if position != pixels:
            return mask, WRONG_SIZE
    offsets[len(text_offsets) - 1] = found
    return -1, 0


@njit(cache=True, nogil=True)
def runs_in(crop: NDArray[np.bool_], x0: int, y0: int, height: int, starts: Ints, ends: Ints) -> int:
    """The runs of a bool (h, w) bitmap whose corner stands at x0, y0; returns their number."""
    found = 0
    rows, columns = crop.shape
    for column in range(columns):
        base = (x0 + column) * height + y0
        row = 0
        while row < rows:
            if not crop[row, column]:
                row += 1
                continue
            first = row
            while row < rows and crop[row, column]:
                row += 1
            if found and ends[found - 1] == base + first:
                ends[found - 1] = base + row
            else:
                starts[found] = base + first
                ends[found] = base + row
                found += 1
    return found


@njit(cache=True, nogil=True)
def text_of(starts: Ints, ends: Ints, pixels: int, text: NDArray[np.uint8]) -> int:
    """Write the COCO-compressed text of some runs; returns its length, at most 7 characters a count."""
    length, before, last, position = 0, np.int64(0), np.int64(0), np.int64(0)
    count = 2 * len(starts) + (0 if len(starts) and ends[-1] == pixels else 1)
    for number in range(count):
        if number % 2:
            value = ends[number // 2] - starts[number // 2]
        else:
            value = (starts[number // 2] if number // 2 < len(starts) else pixels) - position
        position += value
        delta = value - before if number > 2 else value
        before, last = last, value
        more = True
        while more:
            code = delta & 31
            delta >>= 5
            more = delta != -1 if code & 16 else delta != 0
            text[length] = (code | 32 if more else code) + 48
            length += 1
    return length


@njit(cache=True, nogil=True)
def paint(drawn: NDArray[Any], starts: Ints, ends: Ints, offsets: Ints, order: Ints) -> None:
    """Set the pixels of mask i of a column-major image (W * H,) to i + 1; what stands first in `order` is on top."""
    for place in range(len(order) - 1, -1, -1):
        mask = order[place]
        for run in range(offsets[mask], offsets[mask + 1]):
            drawn[starts[run] : ends[run]] = mask + 1


@njit(cache=True, nogil=True)
def draw_crop(crop: NDArray[np.bool_], starts: Ints, ends: Ints, x0: int, y0: int, height: int) -> None:
    """Set the pixels of some runs in a bool (h, w) bitmap whose corner stands at x0, y0, as far as they lie in it."""
    rows, columns = crop.shape
    for run in range(len(starts)):
        position = starts[run]
        while position < ends[run]:
            column = position // height
            stop = min(ends[run], (column + 1) * height)
            if x0 <= column < x0 + columns:
                top = max(position - column * height - y0, 0)
                bottom = min(stop - column * height - y0, rows)
                for row in range(top, bottom):
                    crop[row, column - x0] = True
            position = stop


@njit(cache=True, nogil=True)
def shared_pixels(
    starts: Ints, ends: Ints, offsets: Ints, boxes: NDArray[np.int32],
    other_starts: Ints, other_ends: Ints, other_offsets: Ints, other_boxes: NDArray[np.int32],
    shared: Ints,
) -> None:  # fmt: skip
    """Write into `shared` (N, M) the pixels that each pair of masks has in common; boxes rule pairs out."""
    for i in range(len(boxes)):
        for j in range(len(other_boxes)):
            if (
                boxes[i, 0] >= other_boxes[j, 2]
                or other_boxes[j, 0] >= boxes[i, 2]
                or boxes[i, 1] >= other_boxes[j, 3]
                or other_boxes[j, 1] >= boxes[i, 3]
            ):
                continue
            a, b, total = offsets[i], other_offsets[j], np.int64(0)
            while a < offsets[i + 1] and b < other_offsets[j + 1]:
                low = max(starts[a], other_starts[b])
                high = min(ends[a], other_ends[b])
                if high > low:
                    total += high - low
                if ends[a] < other_ends[b]:
                    a += 1
                else:
                    b += 1
            shared[i, j] = total
