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
STRIP = 32  # columns of an image that are turned together: row by row they fill few lines of the cache


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
def _runs_along(
    line: NDArray[Any], base: int, starts: Ints, ends: Ints, values: NDArray[Any], first: int, found: int
) -> int:
    """Add the runs of a line of an image that begins at `base`; one that goes on from the line before is joined to it.

    Runs before `first` are those of other masks. Returns how many there are now.
    """
    nothing = line.dtype.type(0)
    place = 0
    while place < len(line):
        value = line[place]
        if value == nothing:
            place += 1
            continue
        begin = place
        while place < len(line) and line[place] == value:
            place += 1
        if found > first and ends[found - 1] == base + begin and values[found - 1] == value:
            ends[found - 1] = base + place
        else:
            starts[found], ends[found], values[found] = base + begin, base + place, value
            found += 1
    return found


@njit(cache=True, nogil=True)
def runs_in(
    crop: NDArray[Any], x0: int, y0: int, height: int, starts: Ints, ends: Ints, values: NDArray[Any], first: int
) -> int:
    """Add the runs of equal values other than 0 of an (h, w) image whose corner stands at x0, y0, from `first` on.

    `values` gets the value of each. Returns how many runs there are now, at most h x w more, or half as many where the
    image is of one value.
    """
    found = first
    rows, columns = crop.shape
    turned = np.empty((STRIP, rows), crop.dtype)
    for left in range(0, columns, STRIP):
        wide = min(STRIP, columns - left)
        for row in range(rows):
            for column in range(wide):
                turned[column, row] = crop[row, left + column]
        for column in range(wide):
            base = (x0 + left + column) * height + y0
            found = _runs_along(turned[column], base, starts, ends, values, first, found)
    return found


@njit(cache=True, nogil=True)
def runs_in_crops(
    flat: NDArray[np.bool_], boxes: NDArray[np.int64], height: int, by_column: bool,
    starts: Ints, ends: Ints, offsets: Ints,
) -> None:  # fmt: skip
    """The runs of bitmaps that stand one after another in `flat`, each in its box, row by row or column by column."""
    place, found = 0, 0
    values = np.empty(len(starts), np.bool_)
    for mask in range(len(boxes)):
        offsets[mask] = found
        first = found
        x0, y0, x1, y1 = boxes[mask]
        wide, high = x1 - x0, y1 - y0
        if by_column:
            for column in range(wide):
                line = flat[place + column * high : place + (column + 1) * high]
                found = _runs_along(line, (x0 + column) * height + y0, starts, ends, values, first, found)
        else:
            crop = flat[place : place + wide * high].reshape((high, wide))
            found = runs_in(crop, x0, y0, height, starts, ends, values, first)
        place += wide * high
    offsets[len(boxes)] = found


@njit(cache=True, nogil=True)
def changes_in(pixels: NDArray[np.bool_], words: NDArray[np.uint64], upto: Ints) -> Ints:
    """Where each column of a bitmap changes, column after column: the rows, int64.

    `pixels` (h + 2, w) has an empty row above and below, and a width of whole words, as which `words` has the same
    pixels: where a word is that of the row above nothing changes. `upto` (w + 1,) gets where each column begins.
    """
    upto[:] = 0
    for row in range(1, len(words)):
        for word in range(words.shape[1]):
            if words[row, word] != words[row - 1, word]:
                for column in range(8 * word, 8 * word + 8):
                    upto[column + 1] += pixels[row, column] != pixels[row - 1, column]
    for column in range(len(upto) - 1):
        upto[column + 1] += upto[column]
    found, place = np.empty(upto[-1], np.int64), upto.copy()
    for row in range(1, len(words)):
        for word in range(words.shape[1]):
            if words[row, word] != words[row - 1, word]:
                for column in range(8 * word, 8 * word + 8):
                    if pixels[row, column] != pixels[row - 1, column]:
                        found[place[column]] = row - 1
                        place[column] += 1
    return found


@njit(cache=True, nogil=True)
def by_value(
    starts: Ints, ends: Ints, values: NDArray[np.int32], sorted_starts: Ints, sorted_ends: Ints, offsets: Ints
) -> None:
    """Sort runs by value, those of one value in their order; `offsets` (largest value + 2,) says where each begins."""
    offsets[:] = 0
    for value in values:
        offsets[value] += 1
    total = 0
    for value in range(len(offsets)):
        count = offsets[value]
        offsets[value] = total
        total += count
    for run in range(len(values)):
        place = offsets[values[run]]
        sorted_starts[place], sorted_ends[place] = starts[run], ends[run]
        offsets[values[run]] = place + 1
    for value in range(len(offsets) - 1, 0, -1):
        offsets[value] = offsets[value - 1]
    offsets[0] = 0


@njit(cache=True, nogil=True)
def measure(starts: Ints, ends: Ints, offsets: Ints, height: int, boxes: NDArray[np.int32], areas: Ints) -> None:
    """The tight box (x0, y0, x1, y1, half-open) and the pixels of each mask; (0, 0, 0, 0) and 0 where it is empty."""
    for mask in range(len(areas)):
        first, last = offsets[mask], offsets[mask + 1]
        boxes[mask] = 0
        areas[mask] = 0
        if first == last:
            continue
        top, bottom = np.int64(height), np.int64(0)
        for run in range(first, last):
            start, length = starts[run], ends[run] - starts[run]
            row = start % height
            areas[mask] += length
            if row + length > height:  # it goes on in the next column
                top, bottom = np.int64(0), np.int64(height)
            else:
                top, bottom = min(top, row), max(bottom, row + length)
        boxes[mask, 0], boxes[mask, 1] = starts[first] // height, top
        boxes[mask, 2], boxes[mask, 3] = (ends[last - 1] - 1) // height + 1, bottom


@njit(cache=True, nogil=True)
def encode_all(
    starts: Ints, ends: Ints, offsets: Ints, pixels: int, text: NDArray[np.uint8], text_offsets: Ints
) -> None:
    """Write the COCO-compressed texts of masks one after another; `text` holds 7 characters a count."""
    length = 0
    for mask in range(len(offsets) - 1):
        text_offsets[mask] = length
        first, last = offsets[mask], offsets[mask + 1]
        before, earlier, position = np.int64(0), np.int64(0), np.int64(0)
        count = 2 * (last - first) + (0 if last > first and ends[last - 1] == pixels else 1)
        for number in range(count):
            run = first + number // 2
            if number % 2:
                value = ends[run] - starts[run]
            else:
                value = (starts[run] if run < last else np.int64(pixels)) - position
            position += value
            delta = value - earlier if number > 2 else value
            earlier, before = before, value
            more = True
            while more:
                code = delta & 31
                delta >>= 5
                more = delta != -1 if code & 16 else delta != 0
                text[length] = (code | 32 if more else code) + 48
                length += 1
    text_offsets[len(offsets) - 1] = length


@njit(cache=True, nogil=True)
def paint(drawn: NDArray[Any], starts: Ints, ends: Ints, offsets: Ints, order: Ints) -> None:
    """Set the pixels of mask i of a column-major image (W * H,) to i + 1; what stands first in `order` is on top."""
    for place in range(len(order) - 1, -1, -1):
        mask = order[place]
        for run in range(offsets[mask], offsets[mask + 1]):
            drawn[starts[run] : ends[run]] = mask + 1


@njit(cache=True, nogil=True)
def draw_crops(
    flat: NDArray[np.bool_], starts: Ints, ends: Ints, offsets: Ints, boxes: NDArray[np.int64], height: int
) -> None:
    """Set the pixels of each mask in its (y1 - y0, x1 - x0) bitmap, as far as they lie in its box.

    The bitmaps stand one after another in `flat`, which is False at first.
    """
    place = 0
    for mask in range(len(boxes)):
        x0, y0, x1, y1 = boxes[mask]
        wide, high = x1 - x0, y1 - y0
        for run in range(offsets[mask], offsets[mask + 1]):
            position, end = starts[run], ends[run]
            column = position // height
            while position < end:
                stop = min(end, (column + 1) * height)
                if x0 <= column < x1:
                    top = max(position - column * height - y0, 0)
                    bottom = min(stop - column * height - y0, high)
                    for row in range(top, bottom):
                        flat[place + row * wide + column - x0] = True
                position = stop
                column += 1
        place += wide * high
