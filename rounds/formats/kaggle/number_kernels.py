"""Holds the compiled loops over the texts of run lengths, which `rle` calls. Imported when first used.

Texts stand one after another in `text`, `text_offsets` int64 (N + 1,) says where; runs as in rounds.cells.rle.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Characters = NDArray[np.uint8]

SPACE, ZERO = 32, 48
DIGITS = 15  # more than the pixels of any image have


@njit(cache=True, nogil=True)
def _number(text: Characters, place: int, stop: int) -> tuple[np.int64, int]:
    """The number after some spaces and the place behind it; -1 where there is none of 1 to 15 digits."""
    while place < stop and text[place] == SPACE:
        place += 1
    first, value = place, np.int64(0)
    while place < stop and text[place] != SPACE:
        digit = np.int64(text[place]) - ZERO
        if digit < 0 or digit > 9 or place - first == DIGITS:
            return np.int64(-1), place
        value = 10 * value + digit
        place += 1
    return (value if place > first else np.int64(-1)), place


@njit(cache=True, nogil=True)
def read(text: Characters, text_offsets: Ints, pixels: int, starts: Ints, ends: Ints, offsets: Ints) -> int:
    """The runs of texts whose pairs rise and do not overlap, those joined that follow without a gap.

    Returns the first text that is none such, of an image of so many pixels, else -1. Each text begins and ends with a
    digit. The arrays hold len(text) / 4 + 1 runs for each.
    """
    found = 0
    for mask in range(len(text_offsets) - 1):
        offsets[mask] = found
        place, stop = int(text_offsets[mask]), int(text_offsets[mask + 1])
        last, spaces = np.int64(0), 0
        for i in range(place, stop):
            spaces += text[i] == SPACE
        if place == stop or spaces >= 2 * pixels:
            return mask
        while place < stop:
            start, place = _number(text, place, stop)
            length, place = _number(text, place, stop)
            if start < 1 or length < 1 or start <= last or start + length - 1 > pixels:
                return mask
            if start == last + 1 and found > offsets[mask]:
                ends[found - 1] += length
            else:
                starts[found], ends[found] = start - 1, start - 1 + length
                found += 1
            last = start + length - 1
    offsets[len(text_offsets) - 1] = found
    return -1


@njit(cache=True, nogil=True)
def _write(text: Characters, place: int, value: int) -> int:
    """Write a number and a space; returns the place behind them."""
    digits, rest = 1, value // 10
    while rest:
        digits += 1
        rest //= 10
    for i in range(digits - 1, -1, -1):
        text[place + i] = ZERO + value % 10
        value //= 10
    text[place + digits] = SPACE
    return place + digits + 1


@njit(cache=True, nogil=True)
def write(starts: Ints, ends: Ints, offsets: Ints, text: Characters, text_offsets: Ints) -> None:
    """Write the text of each mask, with a space behind it; `text` holds 32 characters a run."""
    place = 0
    for mask in range(len(offsets) - 1):
        text_offsets[mask] = place
        for run in range(offsets[mask], offsets[mask + 1]):
            place = _write(text, place, starts[run] + 1)
            place = _write(text, place, ends[run] - starts[run])
    text_offsets[len(offsets) - 1] = place
