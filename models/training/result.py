"""Writes what every finished fit leaves in its folder: its curves, the weights, the model file last."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from safetensors.torch import save

from cellsemi.models.base import FitResult, FitTask
from cellsemi.models.model_files import (
    LOSS_FILE,
    USAGE_FILE,
    VALIDATION_FILE,
    CellSize,
    FitFigures,
    ModelFacts,
    StartWeights,
    read_model_file,
    read_usage,
    write_model_file,
)
from cellsemi.models.training.loop import Trained
from cellsemi.models.training.together import rank
from cellsemi.rounds.store import files


def write_result(
    task: FitTask, trained: Trained, parameters: int, cell_size: CellSize, started_from: StartWeights | None = None
) -> FitResult:
    """Write the curves, the averaged weights, and MODEL_FILE; of ranks that train together the first one does.

    `cell_size` is that of the crops (crops.cell_size). `started_from` are the weights from outside that the network was
    built with; those of a teacher took their place.
    """
    folder = files.place(task.out_dir)
    records = trained.curves.records
    loss = float(np.mean([record.loss for record in records[-max(1, len(records) // 10) :]]))
    result = FitResult(
        parameters=parameters, steps=task.steps, loss=loss, seconds=trained.seconds, resumed_at=trained.resumed_at
    )
    if rank() > 0:
        return result
    teacher = None if task.teacher is None else read_model_file(files.place(task.teacher))
    _write_table(folder / LOSS_FILE, pa.Table.from_pylist([record.to_row() for record in records]))
    if trained.curves.validation:
        rows = [record.to_row() for record in trained.curves.validation]
        _write_table(folder / VALIDATION_FILE, pa.Table.from_pylist(rows))
    _write_usage(folder / USAGE_FILE, [row.to_row() for row in trained.curves.usage])
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


def join_curves(parts: Sequence[Path], folder: Path) -> None:
    """Write the curves of a fit into `folder` that was done in parts, one after the other."""
    losses = [pq.read_table(files.local(part / LOSS_FILE)) for part in parts]
    before = np.cumsum([0, *(table.num_rows for table in losses)])[:-1].tolist()
    _write_table(folder / LOSS_FILE, _after(losses, before))
    measured = [(part / VALIDATION_FILE, steps) for part, steps in zip(parts, before, strict=True)]
    if there := [(pq.read_table(files.local(path)), steps) for path, steps in measured if path.is_file()]:
        _write_table(folder / VALIDATION_FILE, _after([table for table, _ in there], [steps for _, steps in there]))
    rows: list[dict[str, float | None]] = []
    for part, steps in zip(parts, before, strict=True):
        seconds = (rows[-1]["seconds"] or 0.0) if rows else 0.0
        rows += [
            {**row, "step": (row["step"] or 0) + steps, "seconds": (row["seconds"] or 0.0) + seconds}
            for row in read_usage(part)
        ]
    _write_usage(folder / USAGE_FILE, rows)


def _after(tables: Sequence[pa.Table], before: Sequence[int]) -> pa.Table:
    """The rows of some tables, their steps counted on from so many before each."""
    counted = []
    for table, steps in zip(tables, before, strict=True):
        place = table.schema.get_field_index("step")
        counted.append(table.set_column(place, "step", pc.add(table["step"], steps)))
    return pa.concat_tables(counted)


def _write_table(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    files.write_bytes(path, buffer.getvalue())


def _write_usage(path: Path, rows: Iterable[dict[str, float | None]]) -> None:
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
