"""A model family that trains in no time: it finds what differs from the background, a little off by its seed.

Registered in place of a real one by tests that are about the campaign and not about networks.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from helpers.model_folder import facts_of
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.configs.errors import TrainingDiverged
from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Family, FitResult, FitTask, Image
from cellsemi.models.model_files import LOSS_FILE, read_weights, write_model_file
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import files, shards

DIVERGES = 13.0  # a learning rate that this family cannot stand


class FakeFamily:
    def fit(self, task: FitTask, progress: Callable[[int, int], None]) -> FitResult:
        if task.training.lr == DIVERGES or (task.training.lr == DIVERGES + 1 and task.model.seed_offset):
            raise TrainingDiverged("step 1 of 1: the loss is nan")
        records = [record for path in task.shards for record in shards.read_shard(files.place(path))]
        states = [state for record in records for state in (record.instances or Instances.empty(1, 1)).state]
        progress(task.steps, task.steps)
        learnt = {"seed": task.seed, "cells": states.count("human") + states.count("accepted")}
        with files.atomic_file(_losses(task)) as file:
            pq.write_table(pa.table({"step": range(1, task.steps + 1), "loss": [0.0] * task.steps}), file)
        write_model_file(files.place(task.out_dir), json.dumps(learnt).encode(), facts_of(task.model, task.classes))
        return FitResult(parameters=1, steps=task.steps, loss=0.0, seconds=0.0, resumed_at=0)

    def load(self, folder: Path, inference: InferenceConfig, device: str) -> FakePredictor:
        return FakePredictor(json.loads(read_weights(folder))["seed"])


def _losses(task: FitTask) -> Path:
    path = files.place(task.out_dir) / LOSS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


class FakePredictor:
    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.warnings: Counter[str] = Counter()

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        return [self._predict(np.asarray(image, np.float32)) for image in images]

    def at_probabilities(
        self, image: Image, probabilities: Sequence[float], scale: float = 1.0
    ) -> tuple[list[Instances], NDArray[np.float32]]:
        return self.predict([image]) * len(probabilities), np.full(np.shape(image)[:2], 0.5, np.float32)

    def _predict(self, image: np.ndarray) -> Instances:
        rng = np.random.default_rng([self._seed, int(image.sum())])
        smooth = ndimage.gaussian_filter(image, 1.5)
        far = np.abs(smooth - np.median(smooth)) > rng.uniform(0.6, 1.0) * smooth.std()
        labels, n = ndimage.label(far)
        return masks.from_label_map(labels, score=rng.uniform(0.05, 0.95, n))


FAMILY = Family(
    config=FlowUnetConfig,
    variants=(),
    start="scratch",
    packages=(),
    code_licence="",
    weights_licence="",
    fit=lambda task, progress: FakeFamily().fit(task, progress),
    load=lambda folder, inference, device: FakeFamily().load(folder, inference, device),
)
