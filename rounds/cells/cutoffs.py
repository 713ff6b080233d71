"""Defines Cutoffs: from which score and which area on the cells of each class are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.instances import Instances


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """The least score and the least area in pixels of a cell that is kept, by class id.

    >>> Cutoffs((0.5, 0.3), (0, 80)).sentence(("astro", "cort"))
    'cells from a score of their class on: astro 0.5, cort 0.3 and 80 px'
    """

    min_score: tuple[float, ...]
    min_area_px: tuple[int, ...]

    @classmethod
    def same(cls, min_score: float, classes: int, min_area_px: int = 0) -> Self:
        """The same for so many classes."""
        return cls((float(min_score),) * classes, (min_area_px,) * classes)

    def chosen(self, cells: Instances) -> NDArray[np.bool_]:
        """bool (N,): the cells that are kept."""
        return self.scored(cells) & self.large(cells)

    def scored(self, cells: Instances) -> NDArray[np.bool_]:
        """bool (N,): the cells whose score is enough, compared as float32, the type that scores are stored in."""
        return np.asarray(cells.score >= np.asarray(self.min_score, np.float32)[cells.class_id], bool)

    def large(self, cells: Instances) -> NDArray[np.bool_]:
        """bool (N,): the cells whose area is enough."""
        return np.asarray(cells.area >= np.asarray(self.min_area_px, np.int64)[cells.class_id], bool)

    def kept(self, cells: Instances) -> Instances:
        """The cells that are kept, in their order."""
        chosen = self.chosen(cells)
        return cells if chosen.all() else cells.select(chosen)

    def of_class(self, class_id: int) -> tuple[float, int]:
        """The least score and the least area of a class."""
        return self.min_score[class_id], self.min_area_px[class_id]

    def words(self, classes: Sequence[str]) -> str:
        """`0.312`, `0.312 and 80 px`, or `astro 0.5, cort 0.3 and 80 px` where they differ; empty without any."""
        pairs = zip(self.min_score, self.min_area_px, strict=True)
        each = [f"{score:.3g}" + (f" and {area} px" if area else "") for score, area in pairs]
        if len(set(each)) <= 1:
            return each[0] if each else ""
        return ", ".join(f"{name} {text}" for name, text in zip(classes, each, strict=True))

    def sentence(self, classes: Sequence[str]) -> str:
        """In words: `cells with a score from 0.312 on`."""
        words = self.words(classes)
        if ", " in words:
            return f"cells from a score of their class on: {words}"
        return f"cells with a score from {words} on"
