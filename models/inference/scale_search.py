"""The zoom at which a teacher knows an image best: each is tried, and the one whose cells score highest is kept.

A network that learned from a few images knows the sizes of their cells. Unlabelled images at another
magnification hold the same cells at other sizes, and the score of what it finds says at which zoom it is at
home: the mean score of the cells, each weighted by its area, so that specks do not decide. Cellpose asks a
person for the diameter, or a second network (Stringer et al. 2021); several zooms for labelling alone are data
distillation (Radosavovic et al. 2018), which averages them: with sizes that lie far apart only one of them is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cellsemi.models.base import Image, Predictor
from cellsemi.rounds.cells.instances import Instances


class ScaleSearch:
    """A predictor that keeps, for each image, the best of some zooms; see models.base.Predictor."""

    def __init__(self, predictor: Predictor, zooms: Sequence[float]) -> None:
        self._predictor, self._zooms = predictor, tuple(zooms)
        self.warnings = predictor.warnings
        self.chosen: Counter[float] = Counter()  # images by the zoom at which they were kept

    def predict(self, images: Sequence[Image], zoom: float = 1.0) -> list[Instances]:
        """The cells of each image at the zoom at which they score best; of equal ones the zoom listed first."""
        seen = [self._predictor.predict(images, zoom * each) for each in self._zooms]
        found = []
        for candidates in zip(*seen, strict=True):
            best = max(range(len(self._zooms)), key=lambda i: mean_score(candidates[i]))
            self.chosen[self._zooms[best]] += 1
            found.append(candidates[best])
        return found


def mean_score(cells: Instances) -> float:
    """The mean score of some cells, weighted by area; 0 without cells."""
    return float(np.average(cells.score, weights=cells.area)) if len(cells) else 0.0
