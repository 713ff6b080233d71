"""Searches the scale of each image: predicts it at several, and keeps the one whose cells score highest.

A network that learned from a few images knows the sizes of their cells. Unlabelled images at another magnification
hold the same cells at other sizes. The mean score of the predicted cells, each weighted by its area so that specks do
not decide, is highest at the scale whose sizes the network has learned. Cellpose asks a person for the diameter, or a
second network (Stringer et al. 2021). Several scales for labelling alone are data distillation (Radosavovic et al.
2018), which averages them; with sizes that lie far apart only one of them is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from cellsemi.models.base import Image, Predictor, predict_named
from cellsemi.rounds.cells.instances import Instances


class ScaleSearch:
    """A predictor that keeps, for each image, the best of some scales; see models.base.Predictor."""

    def __init__(self, predictor: Predictor, scales: Sequence[float]) -> None:
        self._predictor, self._scales = predictor, tuple(scales)
        self.warnings = predictor.warnings
        self.chosen: Counter[float] = Counter()  # images by the scale at which they were kept

    def predict(self, images: Sequence[Image], scale: float = 1.0, image_ids: Sequence[str] = ()) -> list[Instances]:
        """The cells of each image at the scale at which they score best; of equal ones the scale listed first."""
        predicted = [predict_named(self._predictor, images, image_ids, scale * each) for each in self._scales]
        found = []
        for candidates in zip(*predicted, strict=True):
            best = max(range(len(self._scales)), key=lambda i: mean_score(candidates[i]))
            self.chosen[self._scales[best]] += 1
            found.append(candidates[best])
        return found


def mean_score(cells: Instances) -> float:
    """The mean score of some cells, weighted by area; 0 without cells."""
    return float(np.average(cells.score, weights=cells.area)) if len(cells) else 0.0
