"""Encodes masks as COCO run lengths and decodes them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Bitmap = NDArray[np.bool_]
Crop = tuple[Bitmap, int, int]  # bitmap, x0, y0


AT_ONCE = 1 << 26  # pixels
WORD = 8  # pixels that are compared together


class Runs(NamedTuple):
    """The runs of foreground of N masks, half-open intervals in column-major order of the image, mask after mask.

    `starts` and `ends` are int64 (R,), sorted and disjoint within a mask; those of mask i stand from `offsets[i]` to
    `offsets[i + 1]`, int64 (N + 1,).
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def measure(self, height: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The tight box of each mask, int32 (N, 4), and its pixels, int64 (N,), in an image of this height; else 0."""
        count = len(self.offsets) - 1
        boxes, areas = np.zeros((count, 4), np.int32), np.zeros(count, np.int64)
        kernels().measure(*self, height, boxes, areas)
        return boxes, areas

    def select(self, index: NDArray[np.int64]) -> Runs:
        """The runs of some masks, in that order."""
        counts = np.diff(self.offsets)[index]
        offsets = np.append(0, np.cumsum(counts))
        places = np.repeat(self.offsets[index] - offsets[:-1], counts) + np.arange(offsets[-1])
        return Runs(self.starts[places], self.ends[places], offsets)

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
    return texts_of(runs_of_crops([(crop, x0, y0)], height, width), height * width)[0]


def runs_of_crops(crops: Sequence[Crop], height: int, width: int) -> Runs:
    """The runs of crops of one image; ValueError for one that does not fit in it."""
    boxes = np.array([(x0, y0, x0 + crop.shape[1], y0 + crop.shape[0]) for crop, x0, y0 in crops], np.int64)
    boxes = boxes.reshape(-1, 4)
    outside = (boxes[:, :2] < 0).any(axis=1) | (boxes[:, 2:] > (width, height)).any(axis=1)
    if outside.any():
        crop, x0, y0 = crops[int(outside.argmax())]
        size = f"{crop.shape[1]}x{crop.shape[0]}"
        raise ValueError(f"crop {size} at ({x0}, {y0}) does not fit in an image of {width}x{height}")
    return runs_of_flat(np.concatenate([np.zeros(0, bool), *(crop.ravel() for crop, _, _ in crops)]), boxes, height)


def runs_of_flat(flat: Bitmap, boxes: NDArray[np.int64], height: int, by_column: bool = False) -> Runs:
    """The runs of bitmaps that stand one after another, row by row or column by column, each in its box."""
    sides = boxes[:, 2:] - boxes[:, :2]
    starts, ends = np.empty((2, int(((sides[:, 1] + 1) // 2 * sides[:, 0] + 1).sum())), np.int64)
    offsets = np.zeros(len(boxes) + 1, np.int64)
    kernels().runs_in_crops(flat, boxes, height, by_column, starts, ends, offsets)
    return Runs(starts[: offsets[-1]], ends[: offsets[-1]], offsets)


def runs_of_labels(labels: NDArray[np.int32]) -> Runs:
    """The runs of the values 0, 1 ... of an int32 (H, W) label map, those of 0 left out: no run stands for it."""
    starts, ends = np.empty((2, labels.size), np.int64)  # memory that is not written costs nothing
    values = np.empty(labels.size, np.int32)
    count = kernels().runs_in(labels, 0, 0, labels.shape[0], starts, ends, values, 0)
    offsets = np.zeros(int(values[:count].max(initial=0)) + 2, np.int64)
    sorted_starts, sorted_ends = np.empty((2, count), np.int64)
    kernels().by_value(starts[:count], ends[:count], values[:count], sorted_starts, sorted_ends, offsets)
    return Runs(sorted_starts, sorted_ends, offsets)


def turned(runs: Runs, height: int, width: int) -> Runs:
    """The runs of the same masks column after column, where those given go row after row; or the other way round.

    `height` and `width` are those of an image whose columns the runs given follow. Bitmaps of at most AT_ONCE pixels
    are held at a time, or of one mask.
    """
    boxes, _ = runs.measure(height)
    parts, first = [], 0
    upto = ends_of(boxes)
    while first < len(boxes):
        last = max(first + 1, int(np.searchsorted(upto, upto[first] + AT_ONCE, side="right")) - 1)
        some = boxes[first:last].astype(np.int64)
        flat, _ = draw_flat(runs.select(np.arange(first, last)), some, height)
        # Row by row as drawn, which is column by column of the turned image.
        parts.append(runs_of_flat(flat, some[:, [1, 0, 3, 2]], width, by_column=True))
        first = last
    return joined(parts)


def joined(parts: Sequence[Runs]) -> Runs:
    """All masks of some parts, in order."""
    counts = [np.diff(part.offsets) for part in parts]
    offsets = np.append(0, np.cumsum(np.concatenate([np.zeros(0, np.int64), *counts])))
    starts, ends = (np.concatenate([np.zeros(0, np.int64), *(part[k] for part in parts)]) for k in (0, 1))
    return Runs(starts, ends, offsets)


def texts_of(runs: Runs, pixels: int) -> list[bytes]:
    """The COCO-compressed RLE of each mask of an image of so many pixels."""
    text = np.empty(7 * (2 * len(runs.starts) + len(runs.offsets)), np.uint8)
    offsets = np.zeros(len(runs.offsets), np.int64)
    kernels().encode_all(*runs, pixels, text, offsets)
    whole = text[: offsets[-1]].tobytes()
    return [whole[first:last] for first, last in pairwise(offsets.tolist())]


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
    return draw_crops(runs_of((rle,), height, width), np.asarray(bbox)[None], height)[0]


def draw_crops(runs: Runs, boxes: NDArray[Any], height: int) -> list[Bitmap]:
    """The bitmap of each mask inside its box, integer (N, 4), as `decode_crop` gives it."""
    flat, upto = draw_flat(runs, boxes, height)
    sides = (boxes[:, 2:] - boxes[:, :2]).tolist()
    parts = zip(pairwise(upto.tolist()), sides, strict=True)
    return [flat[first:last].reshape(high, wide) for (first, last), (wide, high) in parts]


def draw_flat(runs: Runs, boxes: NDArray[Any], height: int) -> tuple[Bitmap, NDArray[np.int64]]:
    """The bitmaps of `draw_crops` one after another, row by row, and where each begins, int64 (N + 1,)."""
    upto = ends_of(boxes)
    flat = np.zeros(upto[-1], bool)
    kernels().draw_crops(flat, *runs, boxes.astype(np.int64), height)
    return flat, upto


def ends_of(boxes: NDArray[Any]) -> NDArray[np.int64]:
    """Where the bitmap of each box begins when they stand one after another, and where the last ends."""
    upto = np.zeros(len(boxes) + 1, np.int64)
    np.cumsum((boxes[:, 2] - boxes[:, 0]).astype(np.int64) * (boxes[:, 3] - boxes[:, 1]), out=upto[1:])
    return upto


def decode(rle: bytes, height: int, width: int) -> Bitmap:
    """The full bool (height, width) mask."""
    return decode_crop(rle, (0, 0, width, height), height, width)


def encode(mask: NDArray[Any]) -> bytes:
    """COCO-compressed RLE of a full (H, W) mask."""
    height, width = mask.shape
    wide = -(-width // WORD) * WORD
    pixels = np.zeros((height + 2, wide), bool)
    pixels[1:-1, :width] = mask
    upto = np.zeros(wide + 1, np.int64)
    rows = kernels().changes_in(pixels, pixels.view(np.uint64), upto)
    places = rows + height * np.repeat(np.arange(wide), np.diff(upto))
    starts, ends = places[::2], places[1::2]
    gap = np.append(True, starts[1:] != ends[:-1])[: len(starts)]  # a run may go on in the next column
    starts, ends = starts[gap], ends[np.append(gap[1:], True)[: len(starts)]]
    return texts_of(Runs(starts, ends, np.array([0, len(starts)])), height * width)[0]
