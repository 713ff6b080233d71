"""Cleans human masks as they are read: holes, broken parts, repeated masks, specks; counts every change.

Annotation tools leave holes and stray parts behind; the Sartorius masks of `astro` are known for it, and
teams filled them before training. What is dropped here becomes background, so each step is off by default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import cv2
import numpy as np
from scipy import ndimage

from cellsemi.configs.data import CleanConfig
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.rle import Bitmap, Crop
from cellsemi.rounds.cells.shape import parts


def clean(cells: Instances, config: CleanConfig) -> tuple[Instances, Counter[str]]:
    """The mended cells of one image, and how many cells each step changed, dropped or added.

    In this order: redraw, fill holes, parts, drop duplicates, drop small. All columns but the masks are kept;
    the parts of a split cell share them. Cells in the state "ignored" are left as they are: they say where
    nobody knows, and their outline means little.
    """
    counts: Counter[str] = Counter()
    size = cells.height, cells.width
    index: list[int] = []
    crops: list[Crop] = []
    for i, crop in enumerate(masks.crops(cells)):
        for part in [crop] if cells.state[i] == "ignored" else _mended(crop, config, size, counts):
            index.append(i)
            crops.append(part)
    kept = cells.select(index)
    drawn = masks.from_crops(*size, crops)
    mended = kept.with_(rle=drawn.rle, bbox=drawn.bbox, area=drawn.area)
    if config.drop_duplicates:
        mended = _without_duplicates(mended, counts)
    small = (mended.area < config.min_area_px) & (np.array(mended.state) != "ignored")
    counts["too small, dropped"] += int(small.sum())
    return mended.select(~small), +counts


def holes(crop: Bitmap) -> int:
    """Pixels of a mask's holes: background that is cut off from the outside (4-connected)."""
    background, count = ndimage.label(~np.pad(crop, 1))
    if count == 1:  # all of it is the outside
        return 0
    return int((background > 0).sum() - (background == background[0, 0]).sum())


def _mended(crop: Crop, config: CleanConfig, size: tuple[int, int], counts: Counter[str]) -> Iterator[Crop]:
    bitmap, x0, y0 = crop
    if config.redraw_px:
        bitmap, x0, y0 = _counted("redrawn", crop, _redrawn(crop, config.redraw_px, size), counts)
    if config.fill_holes:
        filled = ndimage.binary_fill_holes(bitmap)
        bitmap, x0, y0 = _counted("holes filled", (bitmap, x0, y0), (filled, x0, y0), counts)
    if config.parts == "keep":
        yield bitmap, x0, y0
        return
    found = parts(bitmap)
    areas = np.bincount(found.ravel())[1:]
    if len(areas) == 1:
        yield bitmap, x0, y0
    elif config.parts == "largest":
        counts["reduced to the largest part"] += 1
        yield found == 1 + int(areas.argmax()), x0, y0
    else:
        counts["split into parts"] += 1
        counts["cells added by splitting"] += len(areas) - 1
        yield from ((found == part, x0, y0) for part in range(1, len(areas) + 1))


def _counted(what: str, before: Crop, after: Crop, counts: Counter[str]) -> Crop:
    counts[what] += int(after[0].sum() != before[0].sum())
    return after


def _redrawn(crop: Crop, gap_px: int, size: tuple[int, int]) -> Crop:
    """Gaps of up to `gap_px` closed, then the outer contours filled; the mask never leaves the image."""
    bitmap, x0, y0 = crop
    radius = (gap_px + 1) // 2
    margin = 2 * radius + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    padded = np.pad(bitmap, margin).astype(np.uint8)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc)
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = np.zeros_like(closed)
    cv2.drawContours(drawn, contours, -1, 1, cv2.FILLED)
    top, left = max(0, margin - y0), max(0, margin - x0)
    y0, x0 = y0 - margin + top, x0 - margin + left
    return drawn[top : size[0] - y0 + top, left : size[1] - x0 + left].astype(bool), x0, y0


def _without_duplicates(cells: Instances, counts: Counter[str]) -> Instances:
    """The first of every mask that stands there several times; an ignored cell is no duplicate."""
    seen: set[bytes] = set()
    keep = np.ones(len(cells), bool)
    for i, (rle, state) in enumerate(zip(cells.rle, cells.state, strict=True)):
        if state != "ignored":
            keep[i] = rle not in seen
            seen.add(rle)
    counts["the same mask again, dropped"] += int((~keep).sum())
    return cells.select(keep)
