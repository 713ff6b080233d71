"""What the scores of each model are worth, before several models are fused: per class, from out-of-sample images.

A Mask R-CNN that says .9 and a flow U-Net that says .6 may be equally often right. Each model is calibrated on
human labels that it never saw (val, or with folds the fold of each member), anew in every round.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from cellsemi.orchestrator.stages.context import Context
from cellsemi.rounds.evaluation.calibration import calibrate
from cellsemi.rounds.store import files
from cellsemi.rounds.store.manifest import outputs_fingerprint
from cellsemi.rounds.store.prediction_pairs import all_pairs
from cellsemi.rounds.store.prediction_splits import Calibrations, judged


def calibrations(
    context: Context, round: int, model_round: int, names: Sequence[str], split: str, path: Path
) -> Calibrations:
    """The calibration of each model of `model_round` by what it said of `split` (val or TRIAL), kept in `path`.

    Empty where the round has a single model, whose scores meet no others, and without `fusion.calibrate`. `round`
    is the one at work.
    """
    config = context.config
    if len(config.models_of(model_round)) < 2 or not config.fusion.calibrate:
        return {}
    title = "calibrate " + ", ".join(names)
    folders = {name: list(judged(context.config, context.paths, model_round, name, split)) for name in names}
    fingerprint = files.sha256_json(
        [[name, [outputs_fingerprint(folder) for pair in pairs for folder in pair]] for name, pairs in folders.items()]
        + [context.config_hash]
    )
    if path.is_file() and (content := files.read_json(path))["fingerprint"] == fingerprint:
        context.watcher.skipped(round, title)
    else:
        started = time.monotonic()
        context.watcher.stage(round, title, len(names), "models")
        members = {}
        for name, pairs in folders.items():
            members[name] = calibrate(all_pairs(pairs), config.data.classes, config.filter.min_samples).to_json()
            context.watcher.advance(len(members))
        content = {"fingerprint": fingerprint, "split": split, "members": members}
        files.write_json(path, content)
        context.finish(round, time.monotonic() - started)
    return kept(path)


def kept(path: Path) -> Calibrations:
    """The calibrations in a file; empty where there is none."""
    return files.read_json(path)["members"] if path.is_file() else {}
