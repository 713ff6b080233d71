"""Reads what a run has to show from its files: the curves of its trainings, the scores of its finished rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cellsemi.models.model_files import (
    LIVE_FILE,
    LOSS_FILE,
    MODEL_FILE,
    PARTS,
    VALIDATION_FILE,
    LiveRow,
    read_live,
    read_usage,
)
from cellsemi.orchestrator.tracking.protocol import Point
from cellsemi.rounds.evaluation.history import RoundManifest
from cellsemi.rounds.store import files
from cellsemi.rounds.store.run import RunPaths

MOST_POINTS = 500  # of a curve that is finished before anyone looked
PICTURES = ("reliability.png", "drift.png")  # of a round, as far as they are there
NOT_SCORES = ("round", "model")


@dataclass(frozen=True, slots=True)
class Training:
    """The folder of one model of a round that is trained, or was."""

    round: int
    model: str
    folder: Path

    @property
    def key(self) -> str:
        """What it is called in the record of what was shown."""
        return f"round-{self.round:02d}/{self.model}"

    @property
    def finished(self) -> str | None:
        """What changes when its finished curve does; None while it is trained."""
        path = self.folder / LOSS_FILE
        if not path.is_file() or not (self.folder / MODEL_FILE).is_file():
            return None
        return files.sha256_bytes(path.read_bytes())[:16]


def trainings(paths: RunPaths) -> Iterator[Training]:
    """All trainings that have a folder, round by round."""
    round = 0
    while (folder := paths.round(round)).is_dir():
        for place in sorted((folder / "students").glob("*")):
            yield Training(round, place.name, place)
        round += 1


def live_points(training: Training, after: int) -> Iterator[Point]:
    """What a training that is at work has written of its curve beyond a step."""
    for path in sorted(training.folder.rglob(LIVE_FILE)):
        before = 0
        for row in read_live(path.parent):
            if path.parent.parent.name == PARTS:  # `training.steps: auto` trains in parts, named by their last step
                before = int(path.parent.name) - row.steps
            if before + row.step > after:
                yield _live_point(training, row, before)


def _live_point(training: Training, row: LiveRow, before: int) -> Point:
    return Point(training.round, training.model, before + row.step, row.metrics)


def curve(training: Training, after: int) -> Iterator[Point]:
    """The finished curve beyond a step, thinned to MOST_POINTS; validation and usage whole."""
    rows: dict[int, dict[str, float]] = {}
    table = pq.read_table(files.local(training.folder / LOSS_FILE)).to_pylist()
    places = np.linspace(0, len(table) - 1, min(len(table), MOST_POINTS)).astype(int)
    validation = training.folder / VALIDATION_FILE
    measured = pq.read_table(files.local(validation)).to_pylist() if validation.is_file() else []
    for row in (*(table[i] for i in places.tolist()), *map(_of_validation, measured), *read_usage(training.folder)):
        step = int(row["step"] or 0)
        if step > after:
            rows.setdefault(step, {}).update(_numbers(row, ("step",)))
    for step, metrics in sorted(rows.items()):
        yield Point(training.round, training.model, step, metrics)


def _of_validation(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name if name == "step" else f"validation_{name}": value for name, value in row.items()}


def scores(paths: RunPaths, round: int) -> Iterator[Point]:
    """The leaderboard rows of a finished round; with those of the first model the pictures of the round."""
    pictures = {
        Path(name).stem: (paths.round(round) / name).read_bytes()
        for name in PICTURES
        if (paths.round(round) / name).is_file()
    }
    for row in RoundManifest.read(paths.round_manifest(round)).rows:
        yield Point(round, str(row["model"]), None, _numbers(row, NOT_SCORES), pictures)
        pictures = {}


def _numbers(row: Mapping[str, Any], without: tuple[str, ...]) -> dict[str, float]:
    """The columns that are finite numbers; yes and no are 1 and 0."""
    found = {
        name: float(value)
        for name, value in row.items()
        if name not in without and isinstance(value, bool | int | float)
    }
    return {name: value for name, value in found.items() if np.isfinite(value)}
