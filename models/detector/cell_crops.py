"""Holds the cells of one image as crops, from the network to the end: only what stays is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.models.base import measured
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.rle import Bitmap, Crop


@dataclass(frozen=True, slots=True)
class CellCrops:
    """The N cells of an image: bitmaps that fill their boxes, class_id int32 (N,), score float32 (N,).

    See models.base.Recovered.
    """

    height: int
    width: int
    crops: list[Crop]
    class_id: NDArray[np.int32]
    score: NDArray[np.float32]

    @classmethod
    def of(cls, height: int, width: int, crops: Sequence[Crop], class_id: Any, score: Any) -> CellCrops:
        """Crops of any margin, each with a pixel at least; classes and scores are arrays (N,) or sequences."""
        tight = [_tight(*each) for each in crops]
        return cls(height, width, tight, np.asarray(class_id, np.int32), np.asarray(score, np.float32))

    @property
    def box(self) -> NDArray[np.int64]:
        """int64 (N, 4): x0, y0, x1, y1 of each cell."""
        ends = [(x, y, x + crop.shape[1], y + crop.shape[0]) for crop, x, y in self.crops]
        return np.array(ends, np.int64).reshape(-1, 4)

    @property
    def area(self) -> NDArray[np.int64]:
        """int64 (N,): the pixels of each cell."""
        return np.array([np.count_nonzero(crop) for crop, _, _ in self.crops], np.int64)

    def select(self, index: Any) -> CellCrops:
        """Some of the cells, by index or by a bool (N,)."""
        kept = np.arange(len(self.crops))[index]
        crops = [self.crops[i] for i in kept.tolist()]
        return CellCrops(self.height, self.width, crops, self.class_id[kept], self.score[kept])

    def without_holes(self) -> CellCrops:
        """The same with the holes of each cell filled."""
        return replace(self, crops=[(ndimage.binary_fill_holes(crop), x, y) for crop, x, y in self.crops])

    def measure(self) -> tuple[float, float, float]:
        """See models.base.Recovered."""
        labels = np.zeros((self.height, self.width), np.int32)
        for i in np.argsort(-self.score, kind="stable")[::-1].tolist():  # the best is drawn last
            crop, x, y = self.crops[i]
            labels[y : y + crop.shape[0], x : x + crop.shape[1]][crop] = i + 1
        return measured(self.score, self.area, labels)

    def encode(self) -> Instances:
        """See models.base.Recovered."""
        columns = {"class_id": self.class_id, "score": self.score, "state": "predicted"}
        return masks.from_crops(self.height, self.width, self.crops, **columns)


def _tight(crop: Bitmap, x: int, y: int) -> Crop:
    rows, columns = np.flatnonzero(crop.any(1)), np.flatnonzero(crop.any(0))
    inside = crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return inside, x + int(columns[0]), y + int(rows[0])
