"""Merges human labels and accepted pseudo-labels into training shards."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import chain

from cellsemi.orchestrator.stages.context import Context, finish_shards
from cellsemi.rounds.pseudo_labels.training_set import MergeCounts, merge, with_images
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.manifest import is_done, outputs_fingerprint, read_manifest
from cellsemi.rounds.store.prediction_splits import UNLABELLED
from cellsemi.rounds.store.schemas import ImageRecord


def build_training_sets(context: Context, round: int) -> None:
    """Human labels and, from round 1 on, the filtered pseudo-labels, into the round's training shards, per fold."""
    for fold in folds_of(context.config):
        _build(context, round, fold)


def _build(context: Context, round: int, fold: Fold) -> None:
    paths = context.paths
    human = [paths.split(name) for name in fold.train]
    sources = human + ([paths.pseudo(round, fold.suffix)] if round else [])
    fingerprint = files.sha256_json([[outputs_fingerprint(folder) for folder in sources], context.config_hash])
    out, title = paths.train(round, fold.suffix), f"build {fold.member('the training set')}"
    if is_done(out, fingerprint):
        context.watcher.skipped(round, title)
        return
    context.check_space()
    started = time.monotonic()
    total = sum(read_manifest(folder)["rows"] for folder in sources)
    context.watcher.stage(round, title, total, "images")
    counts = MergeCounts()
    pseudo: Iterable[ImageRecord] = ()
    if round:
        pseudo = with_images(shards.read_folder(sources[-1]), shards.read_folder(paths.split(UNLABELLED)))
    records = merge(chain.from_iterable(map(shards.read_folder, human)), pseudo, counts)
    size = context.config.data.shard_images
    commits = shards.write_folder(out, records, size, context.config_hash, context.watcher.advance)
    seconds = time.monotonic() - started
    finish_shards(out, fingerprint, seconds, commits, merged=counts.to_json())
    if counts.left_out:
        reasons = ", ".join(f"{count} ({reason})" for reason, count in sorted(counts.left_out.items()))
        context.watcher.note(f"round {round}: unlabelled images that teach nothing this round: {reasons}")
    context.finish(round, seconds)
