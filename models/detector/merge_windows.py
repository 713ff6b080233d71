"""Runs a detector over the windows of an image of any size, and merges their cells into one set.

A detector predicts the cells of one window. Everything else is here and in `merge_views`, once for
all detectors. In short: cells that are smaller than the overlap of the windows are found once and whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.detector.cell_crops import CellCrops
from cellsemi.models.detector.merge_views import invert_view, merge_views, transform_view, view_size
from cellsemi.models.inference.windows import Span, Window, windows
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.rle import Crop

SLACK_PX = 3  # two windows find a centre at slightly different places: this far over the border it is still kept
MOSTLY_INSIDE = 0.7  # share of the smaller of two masks in the other, from which they may be one cell


def windows_everywhere(pixels: NDArray[np.float32], inference: InferenceConfig) -> Iterator[NDArray[np.float32]]:
    """What a detector is to look at of an image (H, W, 3) in [0, 1] of any size: windows (h, w, 3) of all its views.

    Each view of `inference.tta` at each of `inference.scales` is predicted in windows; their size is that of
    the scaled view, since it is the network's. An image of one colour has no cell; it is not predicted.
    """
    if (pixels == pixels[0, 0]).all():
        return
    for view, scale in product(inference.tta, inference.scales):
        shown = transform_view(pixels, view, scale)
        for window in windows(shown.shape[0], shown.shape[1], inference):
            yield np.ascontiguousarray(_part(shown, window))


def merge_everywhere(
    height: int, width: int, inference: InferenceConfig, found: Sequence[CellCrops]
) -> CellCrops | Instances:
    """All cells of an image of height x width pixels, from those `found` in each of its `windows_everywhere`.

    The masks of each view come back to the image's own pixels, and the views are merged: see `merge_views`. With one
    view at scale 1 the cells are those of the windows. Cells below `min_area_px` are left out last.
    """
    if not found:
        return CellCrops.of(height, width, [], [], [])
    rest = iter(found)
    views = []
    for view, scale in product(inference.tta, inference.scales):
        size = view_size(height, width, view, scale)
        of_view = list(islice(rest, len(windows(*size, inference))))
        views.append(invert_view(merge_windows(*size, inference, of_view), view, height, width))
    cells = merge_views(views, inference.tta_iou)
    return cells.select(cells.area >= inference.min_area_px)


def merge_windows(height: int, width: int, inference: InferenceConfig, found: list[CellCrops]) -> CellCrops:
    """The cells of an image of height x width pixels, each from one of the windows that hold it; `found` are of each.

    A window offers the cells that are its own by `inference.keep`: `centre`, the centre of their box lies in
    its core (the centre of mass may lie in the core of a window that does not hold the whole cell);
    `core`, at least `core_share` of their area does. Besides it offers those whose centre lies within
    SLACK_PX of its core, so that a cell on the border of two cores is not lost when neither counts
    it as its own. Of offers that are one cell, the first of this order stays: not cut by an inner edge of its
    window; its window's own; the higher score. Offers of two windows are one cell when their IoU is at
    least `inference.tta_iou`, or when one lies mostly in the other, unless one of the windows found both.

    A cell that is smaller than the overlap on both sides is thus found once, and from a window that holds it
    whole. Of a larger one the parts may stay apart: the overlap must be larger than the cells.
    """
    placed = windows(height, width, inference)
    if len(placed) == 1:
        return found[0]
    offered = _WindowCells.of(placed, found, inference)
    kept = offered.kept(inference.tta_iou)
    class_id, score = (np.concatenate([getattr(cells, name) for cells in found]) for name in ("class_id", "score"))
    return CellCrops(height, width, [offered.crops[i] for i in kept], class_id[kept], score[kept])


@dataclass(frozen=True, slots=True)
class _WindowCells:
    """All N detections of all windows, in the frame of the image."""

    crops: list[Crop]
    box: NDArray[np.int64]  # (N, 4) x0, y0, x1, y1
    area: NDArray[np.int64]
    score: NDArray[np.float32]
    window: NDArray[np.int64]
    cut: NDArray[np.bool_]  # ends at an inner edge of its window
    own: NDArray[np.bool_]  # is its window's by the rule
    near: NDArray[np.bool_]  # has its centre in its window's core, or close to it

    @classmethod
    def of(cls, placed: list[Window], found: list[CellCrops], inference: InferenceConfig) -> _WindowCells:
        """The detections of each window, moved to where the window lies."""
        height, width = placed[-1].y.stop, placed[-1].x.stop
        window = np.repeat(np.arange(len(placed)), [len(cells.crops) for cells in found])
        y, x = _bounds([w.y for w in placed])[window], _bounds([w.x for w in placed])[window]
        crops = [
            (crop, x0 + w.x.start, y0 + w.y.start)
            for w, cells in zip(placed, found, strict=True)
            for crop, x0, y0 in cells.crops
        ]
        local = np.concatenate([cells.box for cells in found])
        box = local + np.stack([x[:, 0], y[:, 0]] * 2, axis=1)
        cut = (box[:, 0] == x[:, 0]) & (x[:, 0] > 0) | (box[:, 2] == x[:, 1]) & (x[:, 1] < width)
        cut |= (box[:, 1] == y[:, 0]) & (y[:, 0] > 0) | (box[:, 3] == y[:, 1]) & (y[:, 1] < height)
        area = np.concatenate([cells.area for cells in found])
        if inference.keep == "centre":
            own = _centred(box, x, y, 0)
        else:
            inside = [_area_within(*each) for each in zip(crops, x[:, 2:], y[:, 2:], strict=True)]
            own = np.array(inside, np.int64) >= inference.core_share * area
        score = np.concatenate([cells.score for cells in found])
        return cls(crops, box, area, score, window, cut, own, _centred(box, x, y, SLACK_PX))

    def kept(self, same_iou: float) -> list[int]:
        """The detections that stay, in the order of the windows."""
        offered = np.flatnonzero(self.own | self.near)
        order = offered[np.lexsort((-self.score[offered], ~self.own[offered], self.cut[offered]))]
        kept: list[int] = []
        for i in order.tolist():
            others = np.array(kept, np.int64)
            others = others[(self.window[others] != self.window[i]) & _boxes_meet(self.box[others], self.box[i])]
            if not any(self._are_one(i, j, same_iou) for j in others.tolist()):
                kept.append(i)
        return sorted(kept)

    def _are_one(self, i: int, j: int, same_iou: float) -> bool:
        shared = _shared(self.crops[i], self.crops[j])
        if shared == 0 or self._iou(i, j) >= same_iou:
            return shared > 0
        smaller = i if self.area[i] <= self.area[j] else j
        if shared < MOSTLY_INSIDE * self.area[smaller]:
            return False
        return bool(self.cut[smaller]) or not (self._tells_apart(i, j, same_iou) or self._tells_apart(j, i, same_iou))

    def _tells_apart(self, i: int, j: int, same_iou: float) -> bool:
        """Whether the window of `i` found `j` too, as another cell."""
        others = np.flatnonzero((self.window == self.window[i]) & _boxes_meet(self.box, self.box[j]))
        return any(k != i and self._iou(k, j) >= same_iou for k in others.tolist())

    def _iou(self, i: int, j: int) -> float:
        shared = _shared(self.crops[i], self.crops[j])
        return shared / float(self.area[i] + self.area[j] - shared)


def _part(pixels: NDArray[np.float32], window: Window) -> NDArray[np.float32]:
    return pixels[window.y.start : window.y.stop, window.x.start : window.x.stop]


def _bounds(spans: list[Span]) -> NDArray[np.int64]:
    """(windows, 4): start, stop, core_start, core_stop."""
    return np.array([(s.start, s.stop, s.core_start, s.core_stop) for s in spans], np.int64)


def _centred(box: NDArray[np.int64], x: NDArray[np.int64], y: NDArray[np.int64], slack: int) -> NDArray[np.bool_]:
    """Whether the centres of boxes lie in the cores of their windows, grown by `slack`."""
    inside = np.ones(len(box), bool)
    for axis, core in ((0, x), (1, y)):
        twice = box[:, axis] + box[:, axis + 2]
        inside &= (twice >= 2 * (core[:, 2] - slack)) & (twice < 2 * (core[:, 3] + slack))
    return inside


def _area_within(crop: Crop, x: NDArray[np.int64], y: NDArray[np.int64]) -> int:
    bitmap, x0, y0 = crop
    rows, columns = np.clip(y - y0, 0, None), np.clip(x - x0, 0, None)
    return int(np.count_nonzero(bitmap[rows[0] : rows[1], columns[0] : columns[1]]))


def _boxes_meet(boxes: NDArray[np.int64], box: NDArray[np.int64]) -> NDArray[np.bool_]:
    meet = (boxes[:, :2] < box[2:]) & (boxes[:, 2:] > box[:2])
    return meet[:, 0] & meet[:, 1]


def _shared(one: Crop, other: Crop) -> int:
    """Pixels in both masks."""
    (a, ax, ay), (b, bx, by) = one, other
    left, top = max(ax, bx), max(ay, by)
    right, bottom = min(ax + a.shape[1], bx + b.shape[1]), min(ay + a.shape[0], by + b.shape[0])
    if left >= right or top >= bottom:
        return 0
    mine = a[top - ay : bottom - ay, left - ax : right - ax]
    return int(np.count_nonzero(mine & b[top - by : bottom - by, left - bx : right - bx]))
