"""Searches the scale of each image: predicts it at several, and keeps the one that finds most cell, surely.

A network that learned from a few images knows the sizes of their cells. Unlabelled images at another magnification
hold the same cells at other sizes. At the scale whose sizes the network has learned, it is surest and finds most. A
scale is scored by the F0.5 (Van Rijsbergen 1979) that its cells' scores promise, pixel by pixel:

    precision: the mean score of its cells, each weighted by its area, so that specks do not decide
    recall: the pixels that it expects to be cell, over the most that any scale expects

A scale expects the sum of score x area of its cells, each pixel counted once, at the best score that holds it. One sure
cell where another scale finds twenty has hardly any recall; a carpet of doubtful masks has little precision, which
F0.5 weighs more. Areas are of the image itself, so that they compare between scales.

Cellpose asks a person for the diameter, or a second network (Stringer et al. 2021). Several scales for labelling alone
are data distillation (Radosavovic et al. 2018), which averages them; with sizes that lie far apart only one of them is
right.

Contrast is searched in a like way: images in which cells are dark where those of the labels are bright are tried
inverted as well. There the expected cells are counted and not their pixels: the ground of a negative, taken for one
cell, has most of the pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cellsemi.models.base import Image, Predictor, predict_named
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import to_label_map

BETA = 0.5  # a scale that is wrong where it is sure does more harm than one that misses cells

Polarity = Literal["as-is", "inverted"]
BOTH: tuple[Polarity, ...] = ("as-is", "inverted")


class ScaleSearch:
    """A predictor that keeps, for each image, the best of some scales and polarities; see models.base.Predictor."""

    def __init__(
        self, predictor: Predictor, scales: Sequence[float], polarities: Sequence[Polarity] = ("as-is",)
    ) -> None:
        self._predictor = predictor
        self._scales, self._polarities = tuple(scales), tuple(polarities)
        self.warnings = predictor.warnings
        self.chosen: Counter[tuple[float, Polarity]] = Counter()  # images by the scale and polarity that were kept

    def predict(self, images: Sequence[Image], scale: float = 1.0, image_ids: Sequence[str] = ()) -> list[Instances]:
        """The cells of each image at the scale that scores highest by pixels, in the polarity that does by cells.

        See `search_scores`. Of equal ones the image as it is before inverted, and the scale that is listed first.
        """
        found = []
        for place, image in enumerate(images):
            named = image_ids[place : place + 1]
            best, polarity, cells = self.best(image, scale, named)
            self.chosen[best, polarity] += 1
            found.append(cells)
        return found

    def best(
        self, image: Image, scale: float = 1.0, image_ids: Sequence[str] = ()
    ) -> tuple[float, Polarity, Instances]:
        """The scale and the polarity that are kept for an image, and its cells there."""
        best = [self._best_scale(seen(image, polarity), scale, image_ids) for polarity in self._polarities]
        kept = int(np.argmax(search_scores([cells for _, cells in best], expected_cells)))
        return best[kept][0], self._polarities[kept], best[kept][1]

    def _best_scale(self, image: Image, scale: float, image_ids: Sequence[str]) -> tuple[float, Instances]:
        candidates = [predict_named(self._predictor, [image], image_ids, scale * each)[0] for each in self._scales]
        place = int(np.argmax(search_scores(candidates, expected_cell_px)))
        return self._scales[place], candidates[place]


def search_scores(candidates: Sequence[Instances], expects: Callable[[Instances], float]) -> NDArray[np.float64]:
    """float64 (S,) in [0, 1]: the scores of the cells of one image that were found in each of S ways.

    The F0.5 of the mean score of the cells, weighted by area, and of what they expect to find, over the most that any
    of them expects; 0 without cells.
    """
    precision = np.array([mean_score(cells) for cells in candidates])
    expected = np.array([expects(cells) for cells in candidates])
    recall = expected / max(expected.max(initial=0.0), 1e-9)
    found: NDArray[np.float64] = (1 + BETA**2) * precision * recall / np.maximum(BETA**2 * precision + recall, 1e-9)
    return found


def expected_cell_px(cells: Instances) -> float:
    """How many pixels are expected to be cell: each counts the score of the best scored cell that holds it."""
    labels = to_label_map(cells)
    return float(np.concatenate([[0.0], cells.score])[labels].sum())


def expected_cells(cells: Instances) -> float:
    """How many cells are expected to be right."""
    return float(cells.score.sum())


def seen(image: Image, polarity: Polarity) -> Image:
    """The image in a polarity."""
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
