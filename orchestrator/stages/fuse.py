"""Fuses the predictions of several models into one set of cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cellsemi.orchestrator.stages.context import Context, over_shards
from cellsemi.orchestrator.stages.jobs import FuseJob, Member, ShardStage
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.manifest import outputs_fingerprint
from cellsemi.rounds.store.prediction_splits import UNLABELLED, Calibrations, fusing, images_of
from cellsemi.rounds.store.run import ENSEMBLE


def fuse_members(
    context: Context, round: int, model_round: int, names: Sequence[str], split: str, calibrations: Calibrations
) -> None:
    """The predictions of the models `names` of `model_round` on `split` become those of the ensemble.

    Their scores are first turned into what they are worth, where `calibrations` has the model.
    """
    folds = folds_of(context.config)
    if split == "test":
        _fuse(context, round, model_round, names, folds, split, ENSEMBLE, calibrations)
        return
    for fold in folds:
        _fuse(context, round, model_round, names, [fold], split, fold.member(ENSEMBLE), calibrations)


def _fuse(
    context: Context,
    round: int,
    model_round: int,
    names: Sequence[str],
    folds: Sequence[Fold],
    split: str,
    out: str,
    calibrations: Calibrations,
) -> None:
    """What the members of some folds of some models say of a split becomes what `out` says of it."""
    config, paths = context.config, context.paths
    members = tuple(
        Member(fold.member(name), str(paths.predictions(model_round, fold.member(name), split)), calibrations.get(name))
        for fold in folds
        for name in names
    )
    title = fusing(split, out)

    def make_job(stage: ShardStage) -> FuseJob:
        return FuseJob(
            stage=stage,
            members=members,
            fusion=config.fusion,
            classes=config.data.classes,
            one_class_per_image=config.data.one_class_per_image,
            class_is_stated=config.data.one_class_per_image and split == UNLABELLED,
            name=title,
        )

    over_shards(
        context,
        round=round,
        title=title,
        source=images_of(paths, folds[0], split),
        out=paths.predictions(model_round, out, split),
        inputs=[[each.name, outputs_fingerprint(Path(each.folder)), each.calibration] for each in members],
        make_job=make_job,
    )
