"""Chooses the cell-probability threshold per model on validation images, which it never saw.

A model trained on few labels is unsure near the edges of cells, and a fixed threshold cuts them off; its masks are too
small, students learn them so, and their masks are smaller still. Only flow models have such a threshold
(`inference.cell_probability: auto`). It is chosen at the end of the fit, where the model was trained, and kept in the
record of the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from cellsemi.configs.training import AUTO_PROBABILITY, InferenceConfig
from cellsemi.models.base import ProbabilityPredictor
from cellsemi.models.registry import load_predictor
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.evaluation.metrics import score_image
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.manifest import ChosenProbability, FitRecord

GRID = tuple(round(0.3 + 0.05 * step, 2) for step in range(9))  # .30 to .70
LIMITS = tuple(round(0.1 * step, 1) for step in range(10))  # of the score of a cell, 0 to .9


@dataclass(frozen=True, slots=True)
class ProbabilityChoice:
    """What it takes to choose: the folder of the human labels that the model never saw, and its inference settings."""

    images: str
    inference: InferenceConfig
    device: str
    max_pixels: int


def choose(choice: ProbabilityChoice, model: Path) -> ChosenProbability:
    """Choose the cell probability of a trained folder; returns it with the scores of all that were tried.

    Taken is the one of GRID with the largest mean image score (the project's mAP), each at the best of LIMITS on
    the score of a cell; the mean of each three neighbours is compared, since few images make it jump. Of equal ones
    the nearest to .5.
    """
    predictor = cast(ProbabilityPredictor, load_predictor(model, choice.inference.without_search(), choice.device))
    scores, images = np.zeros((len(GRID), len(LIMITS))), 0
    for record in shards.read_folder(Path(choice.images)):
        assert record.image is not None and record.instances is not None
        image = decode_image(record.image, record.image_id, choice.max_pixels)
        for place, cells in enumerate(predictor.at_probabilities(image, GRID)):
            predicted, truth = scorable(cells, record.instances)
            scores[place] += [score_image(record.image_id, truth, predicted, limit).total.ap for limit in LIMITS]
        images += 1
    found = scores.max(axis=1) / max(images, 1)
    return ChosenProbability(
        chosen=best_of(found.tolist()), scores=dict(zip(map(str, GRID), found.tolist(), strict=True))
    )


def resolved(fit: FitRecord, inference: InferenceConfig) -> InferenceConfig:
    """The settings with the probability that was chosen for a trained model, where it was left open."""
    if inference.cell_probability != AUTO_PROBABILITY or fit.cell_probability is None:
        return inference
    return inference.at_probability(fit.cell_probability.chosen)


def best_of(scores: Sequence[float]) -> float:
    """The probability of GRID whose score, averaged with its neighbours', is the largest."""
    padded = np.pad(np.asarray(scores, dtype=np.float64), 1, mode="edge")
    smooth = np.round((padded[:-2] + padded[1:-1] + padded[2:]) / 3, 9)
    return min(GRID, key=lambda p: (-smooth[GRID.index(p)], abs(p - 0.5)))
