"""How sure a pixel must be to belong to a cell, chosen for each trained model on the human labels it never saw.

A model of few labels is unsure near the edges of cells, and a fixed limit cuts them off; its masks are too
small, students learn them so, and theirs are smaller still. Flow models alone have such a limit
(`inference.cell_probability: auto`). It is chosen at the end of the fit, where the model was trained, and
kept in the manifest of the fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from cellsemi.configs.training import AUTO_PROBABILITY, InferenceConfig
from cellsemi.models.base import ProbabilityPredictor
from cellsemi.models.registry import load_predictor
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.evaluation.metrics import score_image
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image

KEY = "cell_probability"  # in the manifest of a fit
GRID = tuple(round(0.3 + 0.05 * step, 2) for step in range(9))  # .30 to .70
LIMITS = tuple(round(0.1 * step, 1) for step in range(10))  # of the score of a cell, 0 to .9


@dataclass(frozen=True, slots=True)
class Choice:
    """What it takes to choose: the folder of the human labels that the model never saw, and how it looks at them."""

    images: str
    inference: InferenceConfig
    device: str
    max_pixels: int


def choose(choice: Choice, model: Path) -> dict[str, Any]:
    """The cell probability of a trained folder, and the scores of all that were tried, as plain values.

    Taken is the one of GRID with the largest mean image score (the project's mAP), each at the best of LIMITS on
    the score of a cell; the mean of each three neighbours is compared, since few images make it jump. Of equal ones
    the nearest to .5.
    """
    inference = choice.inference.model_copy(update={"scale_search": ()})
    predictor = cast(ProbabilityPredictor, load_predictor(model, inference, choice.device))
    scores, images = np.zeros((len(GRID), len(LIMITS))), 0
    for record in shards.read_folder(Path(choice.images)):
        assert record.image is not None and record.instances is not None
        image = decode_image(record.image, record.image_id, choice.max_pixels)
        for place, cells in enumerate(predictor.at_probabilities(image, GRID)):
            predicted, truth = scorable(cells, record.instances)
            scores[place] += [score_image(record.image_id, truth, predicted, limit).total.ap for limit in LIMITS]
        images += 1
    found = scores.max(axis=1) / max(images, 1)
    return {"chosen": best_of(found.tolist()), "scores": dict(zip(map(str, GRID), found.tolist(), strict=True))}


def resolved(manifest: Mapping[str, Any], inference: InferenceConfig) -> InferenceConfig:
    """The settings with the probability that was chosen for the model of a manifest, where it was left open."""
    if inference.cell_probability != AUTO_PROBABILITY or KEY not in manifest:
        return inference
    return inference.at_probability(manifest[KEY]["chosen"])


def best_of(scores: Sequence[float]) -> float:
    """The probability of GRID whose score, averaged with its neighbours', is the largest."""
    padded = np.pad(np.asarray(scores, dtype=np.float64), 1, mode="edge")
    smooth = np.round((padded[:-2] + padded[1:-1] + padded[2:]) / 3, 9)
    return min(GRID, key=lambda p: (-smooth[GRID.index(p)], abs(p - 0.5)))
