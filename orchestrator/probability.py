"""How sure a pixel must be to belong to a cell, chosen for each trained model on the human labels it never saw.

A model of few labels is unsure near the edges of cells, and a fixed limit cuts them off; its masks are too
small, students learn them so, and theirs are smaller still. Flow models alone have such a limit
(`inference.cell_probability: auto`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from cellsemi.configs.training import AUTO_PROBABILITY, InferenceConfig
from cellsemi.models.base import ProbabilityPredictor, load_predictor
from cellsemi.orchestrator.context import Context, failed
from cellsemi.orchestrator.engine import Worker
from cellsemi.orchestrator.folds import Fold, folds_of
from cellsemi.rounds import files, run, shards
from cellsemi.rounds.images import decode_image
from cellsemi.rounds.matching import scorable
from cellsemi.rounds.metrics import score_image
from cellsemi.rounds.run import RunPaths

GRID = tuple(round(0.3 + 0.05 * step, 2) for step in range(9))  # .30 to .70
LIMITS = tuple(round(0.1 * step, 1) for step in range(10))  # of the score of a cell, 0 to .9


def choose(context: Context, round: int, names: Sequence[str]) -> None:
    """Choose the cell probability of every member of these models that leaves it open, into its folder.

    Taken is the one of GRID with the largest mean image score (the project's mAP) on the fold's val images, each
    at the best of LIMITS on the score of a cell; the mean of each three neighbours is compared, since few images
    make it jump. Of equal ones the nearest to .5.
    """
    for name in names:
        model = context.config.model_called(name)
        if model.has_cell_probability and context.config.inference_of(model).cell_probability == AUTO_PROBABILITY:
            for fold in folds_of(context.config):
                _choose(context, round, name, fold)


def resolved(paths: RunPaths, round: int, member: str, inference: InferenceConfig) -> InferenceConfig:
    """The settings with the probability that was chosen for a member, where there is one."""
    path = paths.cell_probability(round, member)
    if inference.cell_probability != AUTO_PROBABILITY or not path.is_file():
        return inference
    return inference.model_copy(update={"cell_probability": files.read_json(path)["chosen"]})


def best_of(scores: Sequence[float]) -> float:
    """The probability of GRID whose score, averaged with its neighbours', is the largest."""
    padded = np.pad(np.asarray(scores, dtype=np.float64), 1, mode="edge")
    smooth = np.round((padded[:-2] + padded[1:-1] + padded[2:]) / 3, 9)
    return min(GRID, key=lambda p: (-smooth[GRID.index(p)], abs(p - 0.5)))


def _choose(context: Context, round: int, name: str, fold: Fold) -> None:
    config, paths = context.config, context.paths
    member = fold.member(name)
    images, model, path = paths.split(fold.val), paths.model(round, member), paths.cell_probability(round, member)
    title = f"choose the cell probability of {member}"
    fingerprint = files.sha256_json(
        [run.outputs_fingerprint(model), run.outputs_fingerprint(images), context.config_hash]
    )
    if path.is_file() and files.read_json(path)["fingerprint"] == fingerprint:
        context.watcher.skipped(round, title)
        return
    started = time.monotonic()
    context.watcher.stage(round, title, run.read_manifest(images)["rows"], "images")
    found: dict[int, dict[str, Any]] = {}

    def on_done(item: int, record: dict[str, Any]) -> None:
        found[item] = record
        context.watcher.advance(sum(each["images"] for each in found.values()))

    inference = config.inference_of(config.model_called(name))
    job = ProbabilityJob(str(images), str(model), inference, config.engine.device, config.data.max_pixels, title)
    outcome = context.engine.map(job, run.shard_items(images), on_done, lambda: None)
    if outcome.failed:
        raise failed(title, outcome.failed)
    count = sum(each["images"] for each in found.values())
    scores = np.sum([found[item]["scores"] for item in sorted(found)], axis=0).max(axis=1) / count
    content = {"chosen": best_of(scores), "scores": dict(zip(map(str, GRID), scores.tolist(), strict=True))}
    files.write_json(path, {"fingerprint": fingerprint, **content})
    context.finish(round, time.monotonic() - started)


@dataclass(frozen=True, slots=True)
class ProbabilityJob:
    """Score one model on val images at every probability of GRID."""

    images: str  # folder of shards
    model: str
    inference: InferenceConfig
    device: str
    max_pixels: int
    name: str
    uses_device: bool = True

    def start(self) -> Worker:
        """Load the model, once."""
        return _Scorer(self)


class _Scorer:
    def __init__(self, job: ProbabilityJob) -> None:
        self._job = job
        inference = job.inference.model_copy(update={"zoom_search": ()})
        self._predictor = cast(ProbabilityPredictor, load_predictor(Path(job.model), inference, job.device))

    def run(self, item: int) -> dict[str, Any]:
        """The number of images of a shard and the sums of their scores at each probability and limit."""
        scores, images = np.zeros((len(GRID), len(LIMITS))), 0
        for record in shards.read_shard(Path(self._job.images) / shards.part_name(item)):
            assert record.image is not None and record.instances is not None
            image = decode_image(record.image, record.image_id, self._job.max_pixels)
            for place, cells in enumerate(self._predictor.at_probabilities(image, GRID)):
                predicted, truth = scorable(cells, record.instances)
                scores[place] += [score_image(record.image_id, truth, predicted, limit).total.ap for limit in LIMITS]
            images += 1
        return {"images": images, "scores": scores.tolist()}
