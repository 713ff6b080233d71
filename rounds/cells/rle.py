"""Encodes masks as COCO run lengths and decodes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

Bitmap = NDArray[np.bool_]


def encode_crop(crop: Bitmap, x0: int, y0: int, height: int, width: int) -> bytes:
    """COCO-compressed RLE (bytes, column-major) of a bool (h, w) crop whose corner stands at x0, y0.

    >>> encode_crop(np.ones((2, 1), bool), 1, 0, 2, 3)
    b'222'
    """
    h, w = crop.shape
    if x0 < 0 or y0 < 0 or x0 + w > width or y0 + h > height:
        raise ValueError(f"crop {w}x{h} at ({x0}, {y0}) does not fit in an image of {width}x{height}")
    columns, rows = np.nonzero(crop.T)
    position = (columns + x0).astype(np.int64) * height + rows + y0
    if not len(position):
        counts = [height * width]
    else:
        breaks = np.flatnonzero(np.diff(position) != 1)
        starts = position[np.concatenate([[0], breaks + 1])]
        ends = position[np.concatenate([breaks, [len(position) - 1]])] + 1
        edges = np.empty(2 * len(starts), np.int64)
        edges[0::2], edges[1::2] = starts, ends
        runs = np.diff(edges, prepend=0)
        tail = height * width - int(ends[-1])
        counts = [*runs.tolist(), *([tail] if tail else [])]
    encoded: bytes = coco.frPyObjects({"counts": counts, "size": [height, width]}, height, width)["counts"]
    return encoded


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
    x0, y0, x1, y1 = (int(v) for v in bbox)
    counts = decode_counts(rle)
    if counts.sum() != height * width or (counts < 0).any():
        raise ValueError(f"the RLE covers {counts.sum()} pixels, the image of {width}x{height} has {height * width}")
    edges = np.cumsum(counts)
    inside = _within(edges, bbox, height)
    if inside is not None:
        return inside
    change = np.zeros((x1 - x0) * height + 1, np.int8)
    offset = x0 * height
    starts = np.clip(edges[0::2][: len(counts) // 2] - offset, 0, len(change) - 1)
    ends = np.clip(edges[1::2] - offset, 0, len(change) - 1)
    np.add.at(change, starts, 1)
    np.add.at(change, ends, -1)
    strip = np.cumsum(change[:-1], dtype=np.int8).astype(bool).reshape(x1 - x0, height)
    return np.ascontiguousarray(strip[:, y0:y1].T)


def _within(edges: NDArray[np.int64], bbox: Sequence[int] | NDArray[Any], height: int) -> Bitmap | None:
    """The bitmap where each run lies in one column and in the box: the work is that of the box, not of its columns.

    None where a run does not.
    """
    x0, y0, x1, y1 = (int(v) for v in bbox)
    starts, ends = edges[0::2][: len(edges) // 2], edges[1::2]
    filled = ends > starts
    (left, top), (right, bottom) = divmod(starts[filled], height), divmod(ends[filled] - 1, height)
    if not len(left) or (left != right).any():
        return None
    if left.min() < x0 or left.max() >= x1 or top.min() < y0 or bottom.max() >= y1:
        return None
    high = y1 - y0
    change = np.zeros((x1 - x0) * high + 1, np.int8)
    np.add.at(change, (left - x0) * high + top - y0, 1)
    np.add.at(change, (left - x0) * high + bottom - y0 + 1, -1)
    strip = np.cumsum(change[:-1], dtype=np.int8).astype(bool).reshape(x1 - x0, high)
    return np.ascontiguousarray(strip.T)


def decode(rle: bytes, height: int, width: int) -> Bitmap:
    """The full bool (height, width) mask."""
    return decode_crop(rle, (0, 0, width, height), height, width)


def encode(mask: NDArray[Any]) -> bytes:
    """COCO-compressed RLE of a full (H, W) mask."""
    encoded: bytes = coco.encode(np.asfortranarray(mask.astype(bool).view(np.uint8)))["counts"]
    return encoded
