"""Merges human labels and accepted pseudo-labels into training shards."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cellsemi.configs.errors import RunError
from cellsemi.orchestrator.stages.context import Context, do
from cellsemi.orchestrator.stages.divide_folds import judged_images
from cellsemi.rounds.pseudo_labels.curriculum import held_back, share_of_round
from cellsemi.rounds.pseudo_labels.filter_file import FilterFile
from cellsemi.rounds.pseudo_labels.training_set import (
    HELD_BACK,
    LABELLED_SINCE,
    OF_JUDGED,
    MergeCounts,
    merge,
    with_images,
)
from cellsemi.rounds.review.added import batches, labelled_since, read_added, read_batch
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.manifest import read_manifest, write_manifest
from cellsemi.rounds.store.predictions import UNLABELLED
from cellsemi.rounds.store.run import read_shard_workers
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.steps import Step


def build_training_sets(context: Context, round: int) -> None:
    """Human labels and, from round 1 on, the filtered pseudo-labels, into the round's training shards, per fold.

    A fold leaves out the images of the groups that evaluate it, where they are unlabelled or were labelled since the
    start. What was labelled since is no longer pseudo-labelled.
    """
    for fold in folds_of(context.config):
        _build(context, round, fold)
        if round and batches(context.paths, round):
            _build_human(context, round, fold)


def human_labels(context: Context, round: int, fold: Fold) -> Path:
    """The folder of all human labels of a round, of which its control learns."""
    added = batches(context.paths, round)
    return context.paths.human(round, fold.suffix) if added else context.paths.train(0, fold.suffix)


def _build(context: Context, round: int, fold: Fold) -> None:
    paths = context.paths
    human = [paths.split(name) for name in fold.train]
    added = batches(paths, round)
    sources = human + ([paths.pseudo(round, fold.suffix)] if round else [])
    # With folds, those who evaluate the fold, and the unlabelled images, say which of these it must not learn from.
    placed = [paths.split(fold.val), paths.split(UNLABELLED)] if round and fold.suffix else []
    out = paths.train(round, fold.suffix)
    step = Step(
        round=round,
        name=f"build {fold.member('the training set')}",
        output=out,
        settings=context.read("data.shard_images", "data.classes", *(["rounds.curriculum"] if round else [])),
        inputs=(*sources, *placed, *added, *([paths.filter(round)] if round else [])),
        total=sum(read_manifest(folder).rows for folder in (*sources, *added)),
    )

    def work() -> None:
        counts = MergeCounts()
        pseudo: Iterable[ImageRecord] = ()
        not_taught, left_out = set[int](), dict[str, str]()
        if round:
            share = share_of_round(context.config.rounds.curriculum, round)
            late = held_back(shards.read_folder(sources[-1]), share) if share < 1 else ()
            left_out = dict.fromkeys(late, HELD_BACK)
            names = FilterFile.read(paths.filter(round)).not_taught
            not_taught = {context.config.data.classes.index(name) for name in names}
            pseudo = with_images(shards.read_folder(sources[-1]), shards.read_folder(paths.split(UNLABELLED)))
            left_out |= dict.fromkeys(judged_images(context, fold), OF_JUDGED)
            left_out |= dict.fromkeys(labelled_since(added, paths.split(UNLABELLED)), LABELLED_SINCE)
        records = merge(_human(context, fold, added), pseudo, counts, left_out, not_taught)
        _write(context, step, records, counts)
        if round and not counts.human_images + counts.pseudo_images:
            raise RunError(
                f"round {round}: nothing to learn from: there is no human training image, and no unlabelled one "
                f"teaches ({_reasons(counts)}; {context.paths.filter(round)} says why). Where none is accepted, lower "
                "filter.min_precision; where too many are missed, raise filter.max_wrong_background; or label a few "
                "images"
            )
        if added:
            since = len({image_id for folder in added for image_id in read_batch(folder).images})
            what = "images that were labelled since the start teach" if since > 1 else "image labelled since teaches"
            context.watcher.note(f"round {round}: {since} {what} as well")
        if counts.left_out:
            context.watcher.note(f"round {round}: unlabelled images that teach nothing this round: {_reasons(counts)}")

    do(context, step, work)


def _human(context: Context, fold: Fold, added: Sequence[Path]) -> Iterator[ImageRecord]:
    """The human labels that a fold may learn from, those that were added since the start last."""
    for name in fold.train:
        yield from shards.read_folder(context.paths.split(name))
    judged = judged_images(context, fold, added) if added else frozenset()
    yield from (record for record in read_added(added) if record.image_id not in judged)


def _build_human(context: Context, round: int, fold: Fold) -> None:
    """All human labels of a round alone, for its control."""
    paths, added = context.paths, batches(context.paths, round)
    human = [paths.split(name) for name in fold.train]
    placed = [paths.split(fold.val)] if fold.suffix else []
    out = paths.human(round, fold.suffix)
    step = Step(
        round=round,
        name=f"build {fold.member('the human labels')}",
        output=out,
        settings=context.read("data.shard_images", "data.classes"),
        inputs=(*human, *placed, *added),
        total=sum(read_manifest(folder).rows for folder in (*human, *added)),
    )

    def work() -> None:
        counts = MergeCounts()
        _write(context, step, merge(_human(context, fold, added), (), counts), counts)

    do(context, step, work)


def _write(context: Context, step: Step, records: Iterable[ImageRecord], counts: MergeCounts) -> None:
    """The records as shards in the step's output, and the manifest with what went in."""
    started = time.monotonic()
    workers = read_shard_workers(context.paths) or 1
    size = shards.images_per_shard(context.config.data.shard_images, step.total, workers)
    written = shards.write_folder(step.output, records, size, context.config_hash, context.watcher.advance)
    fingerprint = context.ledger.fingerprint(step)
    write_manifest(step.output, fingerprint, time.monotonic() - started, written, counts.as_record())


def _reasons(counts: MergeCounts) -> str:
    """How many unlabelled images were left out, by reason."""
    return ", ".join(f"{count} ({reason})" for reason, count in sorted(counts.left_out.items()))
