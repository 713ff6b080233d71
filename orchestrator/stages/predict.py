"""Stages over images: what a model says of a split, and what several models say together.

A split is `val`, `test`, `unlabelled`, or TRIAL: the val images, looked at as the pool is. With folds each
model has a member in every fold; on val and the pool a fold is on its own, on test all of them speak together.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from cellsemi.orchestrator.engine.protocol import Failure
from cellsemi.orchestrator.stages.choose_cell_probability import resolved
from cellsemi.orchestrator.stages.context import Context, over_shards
from cellsemi.orchestrator.stages.fuse import _fuse
from cellsemi.orchestrator.stages.jobs import PredictJob, ShardStage
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.manifest import outputs_fingerprint, read_manifest
from cellsemi.rounds.store.prediction_splits import TRIAL, UNLABELLED, enlargement_of, images_of


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
    look = config.unlabelled_inference_of if split in (UNLABELLED, TRIAL) else config.inference_of
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
        give_up=leave_out if split == UNLABELLED else None,
    )
    warnings: Counter[str] = Counter()
    for shard in read_manifest(out)["shards"]:
        warnings += Counter(shard.get("warnings", {}))
    for sentence, times in sorted(warnings.items()):
        context.watcher.note(f"{member} on {split}, {times} times: {sentence}")
