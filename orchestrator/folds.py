"""Who learns from which human labels and who is judged on which: one hold-out, or K folds.

With `rounds.folds` every model is trained once per fold on the others (cross-validation, Stone 1974). A fold is
a lineage of its own through all rounds: its students learn from pseudo-labels of its own teachers only, for a
label made by a model that saw the fold would carry the answer back to those who are judged on it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from cellsemi.configs.schema import Config
from cellsemi.orchestrator.context import Context, finish_shards
from cellsemi.rounds.datasets import splits
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.folds import HUMAN_SPLIT
from cellsemi.rounds.store.manifest import is_done, outputs_fingerprint
from cellsemi.rounds.store.schemas import ImageRecord


@dataclass(frozen=True, slots=True)
class Fold:
    """One division of the human labels: its models learn from the splits `train` and are judged on `val`.

    `suffix` ends the names of its models and folders; it is empty for the only one.
    """

    suffix: str
    train: tuple[str, ...]
    val: str

    def member(self, model: str) -> str:
        """The name of a model's, or an ensemble's, part in this fold."""
        return f"{model}{self.suffix}"

    @property
    def human(self) -> tuple[str, ...]:
        """All splits of human labels but test."""
        return (*self.train, self.val)


def folds_of(config: Config) -> tuple[Fold, ...]:
    """The folds of a run: K, or the one hold-out of the data's own val."""
    if config.rounds.folds is None:
        return (Fold("", (HUMAN_SPLIT,), "val"),)
    names = [f"fold-{number}" for number in range(config.rounds.folds)]
    return tuple(Fold(f".{name}", tuple(other for other in names if other != name), name) for name in names)


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
