"""Divides the human labels into folds: who learns from which, and who is evaluated on which.

With `rounds.folds` every model is trained once per fold on the others (cross-validation, Stone 1974). A fold is
a lineage of its own through all rounds: its students learn from pseudo-labels of its own teachers only, for a
label made by a model that saw the fold would carry the answer back to those who are evaluated on it.
"""

from __future__ import annotations

from collections.abc import Iterator

from cellsemi.orchestrator.stages.context import Context, do
from cellsemi.rounds.datasets import splits
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.folds import FOLDS, HUMAN_SPLIT, folds_of
from cellsemi.rounds.store.manifest import write_manifest
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.steps import Step


def divide_folds(context: Context) -> None:
    """Divide the labelled and the val images into `rounds.folds` folds by group, once; nothing without folds.

    DataError when there are fewer groups than folds.
    """
    config, paths = context.config, context.paths
    if config.rounds.folds is None:
        return
    folds = config.rounds.folds
    groups = [record.group for record in _human(context)]
    step = Step(
        round=0,
        name="divide into folds",
        output=paths.split(FOLDS),
        settings=context.read("rounds.folds", "data.split_seed", "data.shard_images"),
        inputs=(paths.data,),
        total=len(groups),
    )

    def work() -> None:
        placed = splits.folds(groups, folds, config.data.split_seed)
        fingerprint = context.ledger.fingerprint(step)
        for number, fold in enumerate(folds_of(config)):
            records = (record for record, place in zip(_human(context), placed, strict=True) if place == number)
            target = paths.split(fold.val)
            written = shards.write_folder(target, records, config.data.shard_images, context.config_hash)
            write_manifest(target, fingerprint, 0.0, written)
        context.watcher.advance(len(groups))

    do(context, step, work)


def _human(context: Context) -> Iterator[ImageRecord]:
    """Every annotated image but test, as a training image."""
    for split in (HUMAN_SPLIT, "val"):
        for record in shards.read_folder(context.paths.split(split)):
            yield record.with_(split=HUMAN_SPLIT)
