"""Stages over images: what a model says of a split, and what several models say together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from cellsemi.orchestrator.context import Context, over_shards
from cellsemi.orchestrator.engine import Failure
from cellsemi.orchestrator.jobs import FuseJob, PredictJob, ShardStage
from cellsemi.rounds import run
from cellsemi.rounds.run import ENSEMBLE

EVALUATED = ("val", "test")


def predict(context: Context, round: int, model_round: int, name: str, split: str) -> None:
    """The model `name` of `model_round` looks at every image of `split`; `round` is the one at work."""
    config, paths = context.config, context.paths
    model = paths.model(model_round, name)

    def make_job(stage: ShardStage) -> PredictJob:
        return PredictJob(
            stage=stage,
            model=str(model),
            inference=config.inference_of(config.model_called(name)),
            device=config.engine.device,
            max_pixels=config.data.max_pixels,
            round=model_round + 1,
            name=f"predict {split} with {name}",
        )

    def leave_out(stage: ShardStage, failure: Failure) -> dict[str, Any]:
        """Images that no worker survived stay in the table, without cells and counted: never skipped silently."""
        context.watcher.note(f"{name}: shard {failure.item} of {split} was given up: {failure.error}")
        unseen = [record.with_(image=None, instances=None) for record in stage.records(failure.item)]
        return stage.commit(failure.item, unseen, given_up=failure.error)

    over_shards(
        context,
        round=round,
        title=f"predict {split} with {name}",
        source=paths.split(split),
        out=paths.predictions(model_round, name, split),
        inputs=[run.outputs_fingerprint(model), model_round],
        make_job=make_job,
        give_up=leave_out if split == "unlabelled" else None,
    )
    told: Counter[str] = Counter()
    for shard in run.read_manifest(paths.predictions(model_round, name, split))["shards"]:
        told += Counter(shard.get("told", {}))
    for sentence, times in sorted(told.items()):
        context.watcher.note(f"{name} on {split}, {times} times: {sentence}")


def fuse_members(context: Context, round: int, model_round: int, members: list[str], split: str) -> None:
    """The predictions of `members` of `model_round` on `split` become those of the ensemble."""
    config, paths = context.config, context.paths
    folders = tuple((name, str(paths.predictions(model_round, name, split))) for name in members)

    def make_job(stage: ShardStage) -> FuseJob:
        return FuseJob(
            stage=stage,
            members=folders,
            fusion=config.fusion,
            one_class_per_image=config.data.one_class_per_image,
            name=f"fuse {split}",
        )

    over_shards(
        context,
        round=round,
        title=f"fuse {split}",
        source=paths.split(split),
        out=paths.predictions(model_round, ENSEMBLE, split),
        inputs=[[name, run.outputs_fingerprint(Path(folder))] for name, folder in folders],
        make_job=make_job,
    )
