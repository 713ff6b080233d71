"""Merges human labels and accepted pseudo-labels into training shards."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import chain

from cellsemi.orchestrator.stages.context import Context, do
from cellsemi.orchestrator.stages.divide_folds import judged_images
from cellsemi.rounds.pseudo_labels.training_set import MergeCounts, merge, with_images
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.manifest import read_manifest, write_manifest
from cellsemi.rounds.store.predictions import UNLABELLED
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.steps import Step


def build_training_sets(context: Context, round: int) -> None:
    """Human labels and, from round 1 on, the filtered pseudo-labels, into the round's training shards, per fold.

    A fold leaves out the unlabelled images of the groups that evaluate it.
    """
    for fold in folds_of(context.config):
        _build(context, round, fold)


def _build(context: Context, round: int, fold: Fold) -> None:
    paths = context.paths
    human = [paths.split(name) for name in fold.train]
    sources = human + ([paths.pseudo(round, fold.suffix)] if round else [])
    # With folds, those who evaluate the fold, and the unlabelled images, say which of these it must not learn from.
    placed = [paths.split(fold.val), paths.split(UNLABELLED)] if round and fold.suffix else []
    out = paths.train(round, fold.suffix)
    step = Step(
        round=round,
        name=f"build {fold.member('the training set')}",
        output=out,
        settings=context.read("data.shard_images"),
        inputs=(*sources, *placed),
        total=sum(read_manifest(folder).rows for folder in sources),
    )

    def work() -> None:
        started = time.monotonic()
        counts = MergeCounts()
        pseudo: Iterable[ImageRecord] = ()
        if round:
            pseudo = with_images(shards.read_folder(sources[-1]), shards.read_folder(paths.split(UNLABELLED)))
        judged = judged_images(context, fold) if round else ()
        records = merge(chain.from_iterable(map(shards.read_folder, human)), pseudo, counts, judged)
        size = context.config.data.shard_images
        written = shards.write_folder(out, records, size, context.config_hash, context.watcher.advance)
        fingerprint = context.ledger.fingerprint(step)
        write_manifest(out, fingerprint, time.monotonic() - started, written, counts.as_record())
        if counts.left_out:
            reasons = ", ".join(f"{count} ({reason})" for reason, count in sorted(counts.left_out.items()))
            context.watcher.note(f"round {round}: unlabelled images that teach nothing this round: {reasons}")

    do(context, step, work)
