"""Searches the scale of each image: predicts it at several, and keeps the one that finds most cell, surely.

A network that learned from a few images knows the sizes of their cells. Unlabelled images at another magnification
hold the same cells at other sizes. At the scale whose sizes the network has learned, it is surest and finds most. A
scale is worth the F0.5 (Van Rijsbergen 1979) that its scores promise, pixel by pixel:

    precision: the mean score of its cells, each weighted by its area, so that specks do not decide
    recall: the pixels that it expects to be cell, over the most that any scale expects

A scale expects the sum of score x area of its cells, each pixel counted once, at the best score that holds it. One sure
cell where another scale finds twenty has hardly any recall; a carpet of doubtful masks has little precision, which
F0.5 weighs more. Areas are of the image itself, so that they compare between scales.

Cellpose asks a person for the diameter, or a second network (Stringer et al. 2021). Several scales for labelling alone
are data distillation (Radosavovic et al. 2018), which averages them; with sizes that lie far apart only one of them is
right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellsemi.models.base import Image, Predictor
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import to_label_map

BETA = 0.5  # a scale that is wrong where it is sure does more harm than one that misses cells


class ScaleSearch:
    """A predictor that keeps, for each image, the best of some scales; see models.base.Predictor."""

    def __init__(self, predictor: Predictor, scales: Sequence[float]) -> None:
        self._predictor, self._scales = predictor, tuple(scales)
        self.warnings = predictor.warnings
        self.chosen: Counter[float] = Counter()  # images by the scale at which they were kept

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        """The cells of each image at the scale that is worth most (`worths`); of equal ones the scale listed first."""
        predicted = [self._predictor.predict(images, scale * each) for each in self._scales]
        found = []
        for candidates in zip(*predicted, strict=True):
            best = int(np.argmax(worths(candidates)))
            self.chosen[self._scales[best]] += 1
            found.append(candidates[best])
        return found


def worths(candidates: Sequence[Instances]) -> NDArray[np.float64]:
    """float64 (S,) in [0, 1]: what the cells of one image are worth that were found at each of S scales.

    The F0.5 of the mean score of the cells, weighted by area, and of the share of the most cell pixels that a scale
    expects; 0 without cells.
    """
    precision = np.array([mean_score(cells) for cells in candidates])
    expected = np.array([expected_cell_px(cells) for cells in candidates])
    recall = expected / max(expected.max(initial=0.0), 1e-9)
    found: NDArray[np.float64] = (1 + BETA**2) * precision * recall / np.maximum(BETA**2 * precision + recall, 1e-9)
    return found


def expected_cell_px(cells: Instances) -> float:
    """How many pixels are expected to be cell: each counts the score of the best scored cell that holds it."""
    labels = to_label_map(cells)
    return float(np.concatenate([[0.0], cells.score])[labels].sum())


def mean_score(cells: Instances) -> float:
    """The mean score of some cells, weighted by area; 0 without cells."""
    return float(np.average(cells.score, weights=cells.area)) if len(cells) else 0.0
