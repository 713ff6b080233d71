"""Fuses the predictions of several models into one set of cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cellsemi.orchestrator.steps.context import OF_CELLS, Context
from cellsemi.orchestrator.steps.jobs import FuseJob, Member, ShardStage
from cellsemi.orchestrator.steps.over_shards import ShardWork, over_shards
from cellsemi.rounds.evaluation.ensemble import CalibrationFile, Ensemble
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.predictions import PredictionSet, states_background
from cellsemi.rounds.store.run import ENSEMBLE
from cellsemi.rounds.store.steps import Step


def fuse_members(context: Context, at: int, ensemble: Ensemble, split: str, scale: float = 1.0) -> None:
    """Fuse the predictions of an ensemble's members on a split, their scores calibrated first; `at`: the round at work.

    On test images the members of all folds are fused, elsewhere those of each fold.
    """
    groups = [ensemble.folds] if split == "test" else [(fold,) for fold in ensemble.folds]
    for folds in groups:
        over_shards(context, fusion_of(context, at, ensemble, folds, split, scale=scale))


def fusion_of(
    context: Context, at: int, ensemble: Ensemble, folds: Sequence[Fold], split: str, *, scale: float = 1.0
) -> ShardWork:
    """The work of fusing what an ensemble's members of some folds predict together."""
    out = PredictionSet(ensemble.round, ENSEMBLE, None if split == "test" else folds[0], split, scale)
    members = [out.of(name, fold) for fold in folds for name in ensemble.members]
    return _fusion(context, at, out, members, ensemble.calibration_file)


def fuse_folds(context: Context, at: int, wanted: PredictionSet) -> None:
    """Fuse the predictions of one model's folds on test images."""
    out = replace(wanted, fold=None)
    members = [out.of(wanted.model, fold) for fold in folds_of(context.config)]
    over_shards(context, _fusion(context, at, out, members, None))


def _fusion(
    context: Context, at: int, out: PredictionSet, members: Sequence[PredictionSet], calibration_file: Path | None
) -> ShardWork:
    config, paths = context.config, context.paths
    calibrations: Mapping[str, dict[str, object]] = CalibrationFile.of(calibration_file)
    title = f"fuse {out.images_name}" + (f" of {out.member}" if out.member != ENSEMBLE else "")
    fused = tuple(Member(each.member, str(each.folder(paths)), calibrations.get(each.model)) for each in members)

    def make_job(stage: ShardStage) -> FuseJob:
        return FuseJob(
            stage=stage,
            members=fused,
            fusion=config.fusion,
            classes=config.data.classes,
            one_class_per_image=config.data.one_class_per_image,
            background_dilation_px=config.filter.ignore_dilation_px if states_background(config, out) else None,
            name=title,
        )

    calibrated = [calibration_file] if calibration_file is not None and calibrations else []
    step = Step(
        round=at,
        name=title,
        output=out.folder(paths),
        settings=context.read("fusion", "filter.background", "filter.ignore_dilation_px", *OF_CELLS),
        inputs=tuple(calibrated),
    )
    images = replace(members[0], model=out.model).images(paths)
    return ShardWork(step, images, make_job, also=tuple(each.folder(paths) for each in members))
