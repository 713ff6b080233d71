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

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellsemi.models.base import Begun, Image, Predictor, Recovered, staged
from cellsemi.models.explanation import Explanation, explanation_of
from cellsemi.rounds.cells.instances import Instances

BETA = 0.5  # a scale that is wrong where it is sure does more harm than one that misses cells

Polarity = Literal["as-is", "inverted"]
BOTH: tuple[Polarity, ...] = ("as-is", "inverted")


class ScaleSearch:
    """A predictor that keeps, for each image, the best of some scales and polarities; see models.base.StagedPredictor.

    What is not kept is never encoded.
    """

    images_at_once = 1  # each is in memory at every scale

    def __init__(
        self, predictor: Predictor, scales: Sequence[float], polarities: Sequence[Polarity] = ("as-is",)
    ) -> None:
        self._predictor, self._plain = staged(predictor), predictor
        self._scales, self._polarities = tuple(scales), tuple(polarities)
        self.warnings = predictor.warnings
        self.chosen: Counter[tuple[float, Polarity]] = Counter()  # images by the scale and polarity that were kept
        self._counting = threading.Lock()

    def predict(self, images: Sequence[Image], scale: float = 1.0, image_ids: Sequence[str] = ()) -> list[Instances]:
        """The cells of each image at the scale that scores highest by pixels, in the polarity that does by cells.

        See `search_scores`. Of equal ones the image as it is before inverted, and the scale that is listed first.
        """
        found = []
        for place, image in enumerate(images):
            best, polarity, cells = self.best(image, scale, image_ids[place : place + 1])
            self.chosen[best, polarity] += 1
            found.append(cells.encode())
        return found

    def best(
        self, image: Image, scale: float = 1.0, image_ids: Sequence[str] = ()
    ) -> tuple[float, Polarity, Recovered]:
        """The scale and the polarity that are kept for an image, and its cells there."""
        return self._best([each.recover() for each in self._ways(self.prepare(image), image_ids, scale)])

    def explain(self, image: Image, scale: float = 1.0) -> Explanation:
        """What the network computed at the scale and in the polarity that are kept."""
        best, polarity, _ = self.best(image, scale)
        found = explanation_of(self._plain, seen(image, polarity), scale * best)
        tried = f"scales {', '.join(f'{each:g}' for each in self._scales)}; {', '.join(self._polarities)}"
        kept = f"Of the ways that were tried ({tried}), the image at {best:g} times its size, {polarity}, was kept."
        return replace(found, notes=(kept, *found.notes))

    def prepare(self, image: Image) -> list[Any]:
        """The image in each polarity; see models.base.StagedPredictor."""
        return [self._predictor.prepare(seen(image, polarity)) for polarity in self._polarities]

    def begin(self, prepared: Sequence[Any], image_ids: Sequence[str], scale: float) -> list[Begun]:
        """See models.base.StagedPredictor."""
        found = []
        for place, image in enumerate(prepared):
            ways = list(self._ways(image, image_ids[place : place + 1], scale))
            found.append(Begun(partial(self._kept, ways), any(way.broken for way in ways)))
        return found

    def _ways(self, image: list[Any], image_id: Sequence[str], scale: float) -> Iterator[Begun]:
        """An image in each polarity, at each scale."""
        for pixels in image:
            for each in self._scales:
                yield from self._predictor.begin([pixels], image_id, scale * each)

    def _kept(self, ways: Sequence[Begun]) -> Recovered:
        best, polarity, cells = self._best([way.recover() for way in ways])
        with self._counting:
            self.chosen[best, polarity] += 1
        return cells

    def _best(self, found: Sequence[Recovered]) -> tuple[float, Polarity, Recovered]:
        """Of the cells of an image in each polarity, at each scale, what is kept."""
        measures = np.array([cells.measure() for cells in found]).reshape(len(self._polarities), len(self._scales), 3)
        best = [int(np.argmax(search_scores(each[:, 0], each[:, 1]))) for each in measures]
        at_best = measures[np.arange(len(best)), best]
        polarity = int(np.argmax(search_scores(at_best[:, 0], at_best[:, 2])))
        place = best[polarity]
        return self._scales[place], self._polarities[polarity], found[polarity * len(self._scales) + place]


def search_scores(precision: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 (S,) in [0, 1]: the scores of the cells of one image that were found in each of S ways.

    The F0.5 of the mean score of the cells, weighted by area, and of what they expect to find, over the most that any
    of them expects; 0 without cells.
    """
    recall = expected / max(expected.max(initial=0.0), 1e-9)
    found: NDArray[np.float64] = (1 + BETA**2) * precision * recall / np.maximum(BETA**2 * precision + recall, 1e-9)
    return found


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
