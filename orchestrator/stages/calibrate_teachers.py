"""Calibrates each teacher's scores on out-of-fold images before fusion, per class.

A Mask R-CNN with a score of .9 and a flow U-Net with .6 may be equally often right. Each model is calibrated on
human labels that it never saw (val, or with folds the fold of each model), anew in every round.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cellsemi.orchestrator.steps.context import OF_CELLS, Context, do
from cellsemi.rounds.calibration.calibration import calibrate
from cellsemi.rounds.evaluation.ensemble import CalibrationFile
from cellsemi.rounds.store.prediction_pairs import grouped_pairs
from cellsemi.rounds.store.predictions import PredictionSet, evaluated_sets, pairs_of
from cellsemi.rounds.store.steps import Step


def calibrate_teachers(context: Context, at: int, names: Sequence[str], on: PredictionSet, output: Path) -> Path | None:
    """Calibrate models of a round, by name, on their predictions of the split of `on`; returns `output`.

    None where the round has a single model, whose scores meet no others, and without `fusion.calibrate`. `at` is the
    round at work; `on` names the models' round and the split.
    """
    config, paths = context.config, context.paths
    if len(config.models_of(on.round)) < 2 or not config.fusion.calibrate:
        return None
    pairs = {name: pairs_of(paths, evaluated_sets(config, on.round, name, on.split)) for name in names}
    step = Step(
        round=at,
        name="calibrate " + ", ".join(names),
        output=output,
        settings=context.read("fusion.calibrate", "filter.min_samples", *OF_CELLS),
        inputs=tuple(folder for each in pairs.values() for pair in each for folder in pair),
        parameters={"split": on.split, "models": list(names)},
        total=len(names),
        unit="models",
    )

    def work() -> None:
        members = {}
        for name, folders in pairs.items():
            found, groups = grouped_pairs(folders)
            members[name] = calibrate(found, config.data.classes, config.filter.min_samples, groups).to_json()
            context.watcher.advance(len(members))
        CalibrationFile(split=on.split, members=members).write(output)

    do(context, step, work)
    return output
