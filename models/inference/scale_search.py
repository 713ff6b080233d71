"""Searches the scale of each image: predicts it at several, and keeps the one whose cells score highest.

A network that learned from a few images knows the sizes of their cells. Unlabelled images at another magnification
hold the same cells at other sizes. The mean score of the predicted cells, each weighted by its area so that specks do
not decide, is highest at the scale whose sizes the network has learned. Cellpose asks a person for the diameter, or a
second network (Stringer et al. 2021). Several scales for labelling alone are data distillation (Radosavovic et al.
2018), which averages them; with sizes that lie far apart only one of them is right.

Contrast is searched in the same way: images in which cells are dark where those of the labels are bright are tried
inverted as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cellsemi.models.base import Image, Predictor
from cellsemi.rounds.cells.instances import Instances

Polarity = Literal["as-is", "inverted"]
BOTH: tuple[Polarity, ...] = ("as-is", "inverted")


class ScaleSearch:
    """A predictor that keeps, for each image, the best of some scales and polarities; see models.base.Predictor."""

    def __init__(
        self, predictor: Predictor, scales: Sequence[float], polarities: Sequence[Polarity] = ("as-is",)
    ) -> None:
        self._predictor = predictor
        self._tried = [(scale, polarity) for polarity in polarities for scale in scales]
        self.warnings = predictor.warnings
        self.chosen: Counter[tuple[float, Polarity]] = Counter()  # images by the scale and polarity that were kept

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        """The cells of each image as they score best; of equal ones as it is before inverted, then as listed."""
        shown = {polarity: [_seen(image, polarity) for image in images] for _, polarity in self._tried}
        predicted = [self._predictor.predict(shown[polarity], scale * each) for each, polarity in self._tried]
        found = []
        for candidates in zip(*predicted, strict=True):
            best = max(range(len(self._tried)), key=lambda i: mean_score(candidates[i]))
            self.chosen[self._tried[best]] += 1
            found.append(candidates[best])
        return found


def _seen(image: Image, polarity: Polarity) -> Image:
    return image if polarity == "as-is" else inverted(image)


def inverted(image: Image) -> Image:
    """An image with dark and bright exchanged: what is x becomes low + high - x, in the same dtype.

    The range is that of the dtype for integers, so that all is exact, else that of the image; what is not finite is 0.
    A network sees an image by its own range (crops.normalise), so that an inverted image inverted is the image to it.
    """
    if image.dtype.kind in "ui":
        whole: Image = np.invert(image)  # every bit: the largest value minus the pixel
        return whole
    pixels: NDArray[np.float32] = np.nan_to_num(image, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)
    exchanged: NDArray[np.float32] = pixels.min() + pixels.max() - pixels
    return exchanged


def mean_score(cells: Instances) -> float:
    """The mean score of some cells, weighted by area; 0 without cells."""
    return float(np.average(cells.score, weights=cells.area)) if len(cells) else 0.0
