"""Who learns from which human labels and who is judged on which: one hold-out, or K folds.

With `rounds.folds` every model is trained once per fold on the others (cross-validation, Stone 1974). A fold is
a lineage of its own through all rounds: its students learn from pseudo-labels of its own teachers only, for a
label made by a model that saw the fold would carry the answer back to those who are judged on it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from cellsemi.orchestrator.stages.context import Context, finish_shards
from cellsemi.rounds.datasets import splits
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.folds import HUMAN_SPLIT, folds_of
from cellsemi.rounds.store.manifest import is_done, outputs_fingerprint
from cellsemi.rounds.store.schemas import ImageRecord


def divide(context: Context) -> None:
    """Divide the labelled and the val images into `rounds.folds` folds by group, once; nothing without folds.

    DataError when there are fewer groups than folds.
    """
    config, paths = context.config, context.paths
    if config.rounds.folds is None:
        return
    fingerprint = files.sha256_json([outputs_fingerprint(paths.data), context.config_hash])
    names = [fold.val for fold in folds_of(config)]
    if all(is_done(paths.split(name), fingerprint) for name in names):
        context.watcher.skipped(0, "divide into folds")
        return
    started = time.monotonic()
    groups = [record.group for record in _human(context)]
    placed = splits.folds(groups, config.rounds.folds, config.data.split_seed)
    context.watcher.stage(0, "divide into folds", len(groups), "images")
    for number, name in enumerate(names):
        records = (record for record, fold in zip(_human(context), placed, strict=True) if fold == number)
        commits = shards.write_folder(paths.split(name), records, config.data.shard_images, context.config_hash)
        finish_shards(paths.split(name), fingerprint, 0.0, commits)
    context.watcher.advance(len(groups))
    context.finish(0, time.monotonic() - started)


def _human(context: Context) -> Iterator[ImageRecord]:
    """Every annotated image but test, as one to learn from."""
    for split in (HUMAN_SPLIT, "val"):
        for record in shards.read_folder(context.paths.split(split)):
            yield record.with_(split=HUMAN_SPLIT)
