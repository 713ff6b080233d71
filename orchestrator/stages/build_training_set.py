"""Merges human labels and accepted pseudo-labels into training shards."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import chain

from cellsemi.configs.errors import RunError
from cellsemi.orchestrator.stages.context import Context, do
from cellsemi.rounds.pseudo_labels.training_set import MergeCounts, merge, with_images
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.manifest import read_manifest, write_manifest
from cellsemi.rounds.store.predictions import UNLABELLED
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.steps import Step


def build_training_sets(context: Context, round: int) -> None:
    """Human labels and, from round 1 on, the filtered pseudo-labels, into the round's training shards, per fold."""
    for fold in folds_of(context.config):
        _build(context, round, fold)


def _build(context: Context, round: int, fold: Fold) -> None:
    paths = context.paths
    human = [paths.split(name) for name in fold.train]
    sources = human + ([paths.pseudo(round, fold.suffix)] if round else [])
    out = paths.train(round, fold.suffix)
    step = Step(
        round=round,
        name=f"build {fold.member('the training set')}",
        output=out,
        settings=context.read("data.shard_images"),
        inputs=tuple(sources),
        total=sum(read_manifest(folder).rows for folder in sources),
    )

    def work() -> None:
        started = time.monotonic()
        counts = MergeCounts()
        pseudo: Iterable[ImageRecord] = ()
        if round:
            pseudo = with_images(shards.read_folder(sources[-1]), shards.read_folder(paths.split(UNLABELLED)))
        records = merge(chain.from_iterable(map(shards.read_folder, human)), pseudo, counts)
        size = context.config.data.shard_images
        written = shards.write_folder(out, records, size, context.config_hash, context.watcher.advance)
        fingerprint = context.ledger.fingerprint(step)
        write_manifest(out, fingerprint, time.monotonic() - started, written, counts.as_record())
        if round and not counts.human_images + counts.pseudo_images:
            raise RunError(
                f"round {round}: nothing to learn from: no human training image, and no cell of the teachers passed "
                f"the filter ({context.paths.filter(round)} says why); lower filter.min_precision, or label a few "
                "images"
            )
        if counts.left_out:
            reasons = ", ".join(f"{count} ({reason})" for reason, count in sorted(counts.left_out.items()))
            context.watcher.note(f"round {round}: unlabelled images that teach nothing this round: {reasons}")

    do(context, step, work)
