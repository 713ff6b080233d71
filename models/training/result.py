"""Writes what every finished fit leaves in its folder: the loss of each step, the weights, the model file last."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import save

from cellsemi.models.base import FitResult, FitTask
from cellsemi.models.model_files import (
    LOSS_FILE,
    CellSize,
    FitFigures,
    ModelFacts,
    StartWeights,
    read_model_file,
    write_model_file,
)
from cellsemi.models.training.loop import Trained
from cellsemi.models.training.together import rank
from cellsemi.rounds.store import files


def write_result(
    task: FitTask, trained: Trained, parameters: int, cell_size: CellSize, started_from: StartWeights | None = None
) -> FitResult:
    """Write LOSS_FILE, the averaged weights, and MODEL_FILE; of ranks that train together the first one does.

    `cell_size` is that of the crops (crops.cell_size). `started_from` are the weights from outside that the network was
    built with; those of a teacher took their place.
    """
    folder = Path(task.out_dir)
    loss = float(np.mean([record.loss for record in trained.records[-max(1, len(trained.records) // 10) :]]))
    result = FitResult(
        parameters=parameters, steps=task.steps, loss=loss, seconds=trained.seconds, resumed_at=trained.resumed_at
    )
    if rank() > 0:
        return result
    teacher = None if task.teacher is None else read_model_file(Path(task.teacher))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([record.to_row() for record in trained.records]), buffer)
    files.write_bytes(folder / LOSS_FILE, buffer.getvalue())
    facts = ModelFacts(
        model=task.model,
        classes=task.classes,
        one_class_per_image=task.one_class_per_image,
        fingerprint=task.fingerprint,
        training=FitFigures(steps=task.steps, seed=task.seed, loss=result.loss, parameters=parameters),
        cell_size=cell_size,
        started_from=started_from if teacher is None else teacher.started_from,
        teacher_sha256=None if teacher is None else teacher.weights_sha256,
    )
    write_model_file(folder, save(trained.weights), facts)
    return result
