"""Chooses, per flow model and on validation images that it never saw, which cell probabilities mean what.

`inference.cell_probability`: a pixel above it belongs to a cell. A model trained on few labels is unsure near the edges
of cells, and a fixed threshold cuts them off; its masks are too small, students learn them so, and their masks are
smaller still.

`inference.background_probability`: a pixel below it surely belongs to none. What lies between the two is what the model
does not know, and nobody learns it as background.

Both are chosen at the end of the fit, where the model was trained, and kept in the record of the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.training import AUTO_PROBABILITY, InferenceConfig
from cellsemi.models.base import Image, ProbabilityPredictor
from cellsemi.models.inference.scale_search import ScaleSearch, seen
from cellsemi.models.registry import load_predictor
from cellsemi.models.validation.over_images import over_images
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.evaluation.metrics import scores_from
from cellsemi.rounds.store import files
from cellsemi.rounds.store.manifest import ChosenProbability, FitRecord

GRID = tuple(round(0.3 + 0.05 * step, 2) for step in range(9))  # .30 to .70
LIMITS = tuple(round(0.1 * step, 1) for step in range(10))  # of the score of a cell, 0 to .9
BINS = 1000  # of the probabilities of the pixels of cells


@dataclass(frozen=True, slots=True)
class OnValidation:
    """What it takes to choose: the folder of the human labels that the model never saw, and its inference settings.

    `labelling` are the settings for unlabelled images. `quantile` is `filter.background_quantile`; None where the
    background is not chosen.
    """

    images: str
    inference: InferenceConfig
    labelling: InferenceConfig
    classes: int
    quantile: float | None
    device: str
    max_pixels: int

    @property
    def grid(self) -> tuple[float, ...]:
        """The cell probabilities to choose from."""
        return GRID if self.inference.cell_probability == AUTO_PROBABILITY else ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The two probabilities; None for what was not to be chosen, or could not be since no image holds a cell.

    `left_out` says by image id why an image could not be used (over_images).
    """

    cell_probability: ChosenProbability | None
    background_probability: float | None
    left_out: dict[str, str] = field(default_factory=dict)


def choose(choice: OnValidation, model: Path) -> Chosen:
    """Choose the probabilities of a trained folder.

    The cell probability is the one of GRID with the largest mean image score (the project's mAP), each at the best of
    LIMITS on the score of a cell; the mean of each three neighbours is compared, since few images make it jump. Of
    equal ones the nearest to .5.

    The background probability is the one that the share `quantile` of the pixels of human cells falls short of, in the
    class of cells where it is the lowest. It is measured as the model labels: with the scale that a search keeps. An
    image at a foreign scale, where the model sees no cell at all, would make nothing sure.
    """
    predictor = cast(ProbabilityPredictor, load_predictor(model, choice.inference.without_search(), choice.device))
    left_out: dict[str, str] = {}

    def scored(image: Image, human: Instances) -> NDArray[np.float64]:
        found, _ = predictor.at_probabilities(image, choice.grid)
        pairs = [scorable(cells, human) for cells in found]
        return np.stack([scores_from(truth, predicted, LIMITS) for predicted, truth in pairs])

    chosen = None
    if choice.grid:
        each = list(over_images(files.place(choice.images), choice.max_pixels, scored, left_out))
        chosen = _best(choice.grid, np.mean(each, axis=0).max(axis=1) if each else np.zeros(len(choice.grid)))
    below = None if choice.quantile is None else _background(choice, model, chosen, choice.quantile, left_out)
    return Chosen(chosen, below, left_out)


def _background(
    choice: OnValidation, model: Path, chosen: ChosenProbability | None, share: float, left_out: dict[str, str]
) -> float | None:
    """The background probability of a model whose cell probability is chosen or stated."""
    inference = choice.labelling if chosen is None else choice.labelling.at_probability(chosen.chosen)
    plain = cast(ProbabilityPredictor, load_predictor(model, inference.without_search(), choice.device))
    search = load_predictor(model, inference, choice.device) if inference.searches else plain
    inside = _InsideCells(choice.classes)

    def probabilities(image: Image, human: Instances) -> tuple[NDArray[np.float32], Instances]:
        scale = 1.0
        if isinstance(search, ScaleSearch):
            scale, polarity, _ = search.best(image)
            image = seen(image, polarity)
        return plain.at_probabilities(image, (), scale)[1], human.in_state("human")

    for probability, cells in over_images(files.place(choice.images), choice.max_pixels, probabilities, left_out):
        inside.add(probability, cells)
    return inside.quantile(share)


@dataclass(slots=True)
class _InsideCells:
    """Counts the pixels of human cells by class and by the cell probability that a model gives them."""

    classes: int
    counts: NDArray[np.int64] = field(init=False)  # (classes, BINS)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.classes, BINS), np.int64)

    def add(self, probability: NDArray[np.float32], cells: Instances) -> None:
        """Count the pixels (H, W) of one image."""
        drawn = masks.to_label_map(cells)
        number = drawn[drawn > 0] - 1
        bins = np.minimum(probability[drawn > 0] * BINS, BINS - 1).astype(np.int64)
        np.add.at(self.counts, (cells.class_id[number], bins), 1)

    def quantile(self, share: float) -> float | None:
        """The lower edge of the bin in which the share of a class is reached, in the class where it is the lowest."""
        seen = self.counts[self.counts.any(axis=1)]
        if not len(seen):
            return None
        upto = np.cumsum(seen, axis=1) / seen.sum(axis=1, keepdims=True)
        return float((upto > share).argmax(axis=1).min()) / BINS


def resolved(fit: FitRecord, inference: InferenceConfig) -> InferenceConfig:
    """The settings with the cell probability that was chosen for a trained model, where it was left open."""
    if inference.cell_probability != AUTO_PROBABILITY or fit.cell_probability is None:
        return inference
    return inference.at_probability(fit.cell_probability.chosen)


def with_background(fit: FitRecord, inference: InferenceConfig) -> InferenceConfig:
    """The settings with the background probability that was chosen for a trained model, where none is stated."""
    if inference.background_probability is not None:
        return inference
    return inference.model_copy(update={"background_probability": fit.background_probability})


def without_background(inference: InferenceConfig) -> InferenceConfig:
    """The settings for images that nobody learns from."""
    return inference.model_copy(update={"background_probability": None})


def _best(grid: Sequence[float], scores: NDArray[np.float64]) -> ChosenProbability:
    listed = scores.tolist()
    return ChosenProbability(chosen=best_of(listed), scores=dict(zip(map(str, grid), listed, strict=True)))


def best_of(scores: Sequence[float]) -> float:
    """The probability of GRID whose score, averaged with its neighbours', is the largest."""
    padded = np.pad(np.asarray(scores, dtype=np.float64), 1, mode="edge")
    smooth = np.round((padded[:-2] + padded[1:-1] + padded[2:]) / 3, 9)
    return min(GRID, key=lambda p: (-smooth[GRID.index(p)], abs(p - 0.5)))
