"""Encodes masks as COCO run lengths and decodes them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

Bitmap = NDArray[np.bool_]


class Runs(NamedTuple):
    """The runs of foreground of N masks, half-open intervals in column-major order of the image, mask after mask.

    `starts` and `ends` are int64 (R,), sorted and disjoint within a mask; those of mask i stand from `offsets[i]` to
    `offsets[i + 1]`, int64 (N + 1,).
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def area(self) -> NDArray[np.int64]:
        """int64 (N,): the pixels of each mask."""
        upto = np.concatenate([[0], np.cumsum(self.ends - self.starts)])
        return np.asarray(upto[self.offsets[1:]] - upto[self.offsets[:-1]])


@functools.cache
def kernels() -> ModuleType:
    """The compiled loops; numba is imported now."""
    from cellsemi.rounds.cells import run_kernels

    return run_kernels


def runs_of(rles: Sequence[bytes], height: int, width: int) -> Runs:
    """The runs of COCO-compressed masks of one image; ValueError for a text that is none of an image of this size."""
    text = np.frombuffer(b"".join(rles), np.uint8)
    text_offsets = np.zeros(len(rles) + 1, np.int64)
    np.cumsum([len(rle) for rle in rles], out=text_offsets[1:])
    starts, ends = np.empty((2, len(text) // 2 + len(rles) + 1), np.int64)
    offsets = np.zeros(len(rles) + 1, np.int64)
    bad, problem = kernels().decode_all(text, text_offsets, height * width, starts, ends, offsets)
    if problem == kernels().CUT_OFF:
        raise ValueError("the RLE string is cut off in the middle of a run")
    if problem:
        covered = int(decode_counts(rles[bad]).sum())
        raise ValueError(f"the RLE covers {covered} pixels, the image of {width}x{height} has {height * width}")
    return Runs(starts[: offsets[-1]], ends[: offsets[-1]], offsets)


def encode_crop(crop: Bitmap, x0: int, y0: int, height: int, width: int) -> bytes:
    """COCO-compressed RLE (bytes, column-major) of a bool (h, w) crop whose corner stands at x0, y0.

    >>> encode_crop(np.ones((2, 1), bool), 1, 0, 2, 3)
    b'222'
    """
    h, w = crop.shape
    if x0 < 0 or y0 < 0 or x0 + w > width or y0 + h > height:
        raise ValueError(f"crop {w}x{h} at ({x0}, {y0}) does not fit in an image of {width}x{height}")
    starts, ends = np.empty((2, (h + 1) // 2 * w + 1), np.int64)
    found = kernels().runs_in(crop, x0, y0, height, starts, ends)
    text = np.empty(7 * (2 * found + 1), np.uint8)
    length = kernels().text_of(starts[:found], ends[:found], height * width, text)
    return text[:length].tobytes()


def decode_counts(rle: bytes) -> NDArray[np.int64]:
    """Run lengths (background first) of a COCO-compressed RLE.

    The format (pycocotools, maskApi.c): 5 bits a character, 32 marks that more follow, 16 is the sign;
    from the third run on each value is the difference to the run two before.
    """
    codes = np.frombuffer(rle, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return np.zeros(0, np.int64)
    last = (codes & 32) == 0
    ends = np.flatnonzero(last)
    if not last[-1]:
        raise ValueError("the RLE string is cut off in the middle of a run")
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    value = np.add.reduceat((codes & 31) << (5 * place), starts)
    sign = (codes[ends] & 16) != 0
    value = np.where(sign, value - (np.int64(1) << (5 * (ends - starts + 1))), value)
    counts = value.copy()
    counts[1::2] = np.cumsum(value[1::2])
    # Runs 0 and 2 are both stored as they are; from run 4 on they are differences.
    counts[2::2] = np.cumsum(value[2::2])
    return counts


def decode_crop(rle: bytes, bbox: Sequence[int] | NDArray[Any], height: int, width: int) -> Bitmap:
    """The bool (y1 - y0, x1 - x0) bitmap of a mask inside `bbox` (x0, y0, x1, y1, half-open)."""
    return next(draw_crops(runs_of((rle,), height, width), (bbox,), height))


def draw_crops(runs: Runs, boxes: Iterable[Sequence[int] | NDArray[Any]], height: int) -> Iterator[Bitmap]:
    """The bitmap of each mask inside its box, as `decode_crop` gives it."""
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        crop = np.zeros((int(y1 - y0), int(x1 - x0)), bool)
        part = slice(runs.offsets[i], runs.offsets[i + 1])
        kernels().draw_crop(crop, runs.starts[part], runs.ends[part], int(x0), int(y0), height)
        yield crop


def decode(rle: bytes, height: int, width: int) -> Bitmap:
    """The full bool (height, width) mask."""
    return decode_crop(rle, (0, 0, width, height), height, width)


def encode(mask: NDArray[Any]) -> bytes:
    """COCO-compressed RLE of a full (H, W) mask."""
    encoded: bytes = coco.encode(np.asfortranarray(mask.astype(bool).view(np.uint8)))["counts"]
    return encoded
