"""Stages over images: what a model says of a split, and what several models say together.

A split is `val`, `test`, `unlabelled`, or TRIAL: the val images, looked at as the pool is. With folds each
model has a member in every fold; on val and the pool a fold is on its own, on test all of them speak together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cellsemi.configs.schema import Config
from cellsemi.orchestrator.context import Context, over_shards
from cellsemi.orchestrator.engine import Failure
from cellsemi.orchestrator.folds import Fold, folds_of
from cellsemi.orchestrator.jobs import FuseJob, Member, PredictJob, ShardStage
from cellsemi.orchestrator.probability import resolved
from cellsemi.rounds.store.manifest import outputs_fingerprint, read_manifest
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths

EVALUATED = ("val", "test")
Calibrations = Mapping[str, dict[str, Any]]  # model -> Calibration.to_json()

POOL = "unlabelled"
BY = "-x"
TRIAL = "trial"  # of predictions: val images as the pool is looked at, where that is not as they are judged


def trial_of(config: Config) -> str:
    """The split of predictions that says what the teachers' labels are worth: TRIAL, or val where that is the same."""
    alike = all(config.labelling_of(model) == config.inference_of(model) for model in config.models)
    return "val" if alike else TRIAL


def images_of(paths: RunPaths, fold: Fold, split: str) -> Path:
    """The folder of the images that the models of a fold look at for a split."""
    return paths.split(fold.val if split == TRIAL or split.startswith("val") else split)


def enlarged(enlargement: float) -> str:
    """The split of predictions of val images that are enlarged so many times."""
    return "val" if enlargement == 1 else f"val{BY}{enlargement:g}"


def enlargement_of(split: str) -> float:
    """The inverse of `enlarged`; 1 for all other splits."""
    _, by, number = split.partition(BY)
    return float(number) if by else 1.0


def judged(config: Config, paths: RunPaths, round: int, name: str, split: str) -> Iterator[tuple[Path, Path]]:
    """(predictions, images) folders of a model or an ensemble on val, TRIAL, the pool or test.

    One pair, or with folds, except on test, one per fold.
    """
    if split == "test":
        yield paths.predictions(round, name, split), paths.split(split)
        return
    for fold in folds_of(config):
        yield paths.predictions(round, fold.member(name), split), images_of(paths, fold, split)


def fusing(split: str, out: str) -> str:
    """The name of the stage that makes `out` of its members."""
    return f"fuse {split}" if out == ENSEMBLE else f"fuse {split} of {out}"


def predict(context: Context, round: int, model_round: int, name: str, split: str) -> None:
    """The model `name` of `model_round` looks at every image of `split`; `round` is the one at work."""
    folds = folds_of(context.config)
    for fold in folds:
        _predict(context, round, model_round, name, fold, split)
    if split == "test" and len(folds) > 1:
        _fuse(context, round, model_round, [name], folds, split, name, {})


def _predict(context: Context, round: int, model_round: int, name: str, fold: Fold, split: str) -> None:
    config, paths = context.config, context.paths
    member = fold.member(name)
    model = paths.model(model_round, member)
    look = config.labelling_of if split in (POOL, TRIAL) else config.inference_of
    inference = resolved(read_manifest(model), look(config.model_called(name)))

    def make_job(stage: ShardStage) -> PredictJob:
        return PredictJob(
            stage=stage,
            model=str(model),
            inference=inference,
            device=config.engine.device,
            max_pixels=config.data.max_pixels,
            round=model_round + 1,
            zoom=enlargement_of(split),
            name=f"predict {split} with {member}",
        )

    def leave_out(stage: ShardStage, failure: Failure) -> dict[str, Any]:
        """Images that no worker survived stay in the table, without cells and counted: never skipped silently."""
        context.watcher.note(f"{member}: shard {failure.item} of {split} was given up: {failure.error}")
        unseen = [record.with_(image=None, instances=None) for record in stage.records(failure.item)]
        return stage.commit(failure.item, unseen, given_up=failure.error)

    out = paths.predictions(model_round, member, split)
    over_shards(
        context,
        round=round,
        title=f"predict {split} with {member}",
        source=images_of(paths, fold, split),
        out=out,
        inputs=[outputs_fingerprint(model), model_round],
        make_job=make_job,
        give_up=leave_out if split == POOL else None,
    )
    told: Counter[str] = Counter()
    for shard in read_manifest(out)["shards"]:
        told += Counter(shard.get("told", {}))
    for sentence, times in sorted(told.items()):
        context.watcher.note(f"{member} on {split}, {times} times: {sentence}")


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
            class_is_stated=config.data.one_class_per_image and split == POOL,
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
