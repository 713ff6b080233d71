"""Checks whether the pseudo-labels of a round drift away from human labels; it decides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellsemi.orchestrator.steps.context import Context, do
from cellsemi.rounds.calibration.calibration import Calibration
from cellsemi.rounds.pseudo_labels.drift import COLUMNS, Profile, alarms, calibration_alarms, profile
from cellsemi.rounds.pseudo_labels.filter_file import FilterFile
from cellsemi.rounds.store import files
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.manifest import read_manifest
from cellsemi.rounds.store.prediction_pairs import cell_columns
from cellsemi.rounds.store.steps import Step


def check_drift(context: Context, round: int) -> None:
    """Compare the pseudo-labels of a round with the human labels of training and val, and the round before."""
    paths = context.paths
    path = paths.drift(round)
    compared = [number for number in (round - 1, round) if number]
    folders = [*_human(context), *(folder for number in compared for folder in _pseudo(context, number))]
    step = Step(
        round=round,
        name="check drift",
        output=path,
        settings=context.read("data.classes"),
        inputs=(*folders, *(paths.filter(number) for number in compared)),
        total=sum(read_manifest(folder).rows for folder in folders),
    )

    def work() -> None:
        files.write_json(path, _compared(context, round))
        context.watcher.advance(step.total)

    do(context, step, work)
    for sentence in files.read_json(path)["alarms"]:
        context.watcher.note(f"round {round}: drift: {sentence}")


def _human(context: Context) -> list[Path]:
    """The folders of all human labels but test."""
    return [context.paths.split(name) for name in folds_of(context.config)[0].human]


def _pseudo(context: Context, round: int) -> list[Path]:
    return [context.paths.pseudo(round, fold.suffix) for fold in folds_of(context.config)]


def _compared(context: Context, round: int) -> dict[str, Any]:
    human = profile(cell_columns(_human(context), COLUMNS), context.config.data.classes)
    now = _filtered(context, round)
    before = _filtered(context, round - 1) if round > 1 else None
    found = alarms(now, human, "the human labels")
    found += alarms(now, before, "the pseudo-labels of the round before") if before else []
    return {
        "human": human.to_json(),
        "before": before.to_json() if before else None,
        "now": now.to_json(),
        "alarms": found + calibration_alarms(now, before),
    }


def _filtered(context: Context, round: int) -> Profile:
    paths, classes = context.paths, context.config.data.classes
    calibration = Calibration.from_json(FilterFile.read(paths.filter(round)).calibration, classes)
    return profile(cell_columns(_pseudo(context, round), COLUMNS), classes, calibration)
