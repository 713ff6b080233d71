"""Merges human labels and accepted pseudo-labels into the training set of a round.

It is a list of pairs: a shard of labels, which is written here, and the shard of the images that they are of, which
stays where it is. A worker makes one shard of labels after another; what the images of all shards decide together, such
as which of them are left to later rounds, is found before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cellsemi.configs.errors import RunError
from cellsemi.orchestrator.engine.protocol import Record, Worker
from cellsemi.orchestrator.stages.divide_folds import judged_images
from cellsemi.orchestrator.steps.context import Context, do, failed, failed_on_data
from cellsemi.rounds.pseudo_labels.curriculum import Ranked, held_back, rank, share_of_round
from cellsemi.rounds.pseudo_labels.filter_file import FilterFile
from cellsemi.rounds.pseudo_labels.training_set import (
    HELD_BACK,
    LABELLED_SINCE,
    OF_JUDGED,
    Known,
    MergeCounts,
    human_labels,
    pseudo_labels,
)
from cellsemi.rounds.review.added import batches, labelled_since, last_batch, read_batch
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.manifest import (
    Commit,
    ImageShard,
    TrainingCounts,
    read_commits,
    read_manifest,
    shard_items,
    write_commit,
    write_manifest,
)
from cellsemi.rounds.store.predictions import UNLABELLED
from cellsemi.rounds.store.schemas import LEFT_OUT
from cellsemi.rounds.store.steps import Step, below

LEFT_OUT_FILE = "left_out.parquet"


def build_training_sets(context: Context, round: int) -> None:
    """Human labels and, from round 1 on, the filtered pseudo-labels, into the round's training set, per fold.

    A fold leaves out the images of the groups that evaluate it, where they are unlabelled or were labelled since the
    start. What was labelled since is no longer pseudo-labelled.
    """
    for fold in folds_of(context.config):
        _build(context, round, fold)
        if round and batches(context.paths, round):
            _build_human(context, round, fold)


def human_training_set(context: Context, round: int, fold: Fold) -> Path:
    """The folder of all human labels of a round, of which its control learns."""
    added = batches(context.paths, round)
    return context.paths.human(round, fold.suffix) if added else context.paths.train(0, fold.suffix)


@dataclass(frozen=True, slots=True)
class LabelSource:
    """One shard of labels that may teach, and that of its images, below the run's folder; `skipped` do not count."""

    labels: str
    images: str
    images_sha256: str
    human: bool
    skipped: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class BuildJob:
    """Writes the labels of one shard that teach: item i is source i.

    `left_out` is a table of image ids and reasons, None where there are none; `human` are all folders of human labels.
    """

    out: str
    fingerprint: str
    config_hash: str
    run: str
    sources: tuple[LabelSource, ...]
    human: tuple[str, ...]
    left_out: str | None = None
    not_taught: frozenset[int] = frozenset()
    name: str = "build the training set"
    uses_device: bool = False

    def start(self) -> Worker:
        """Read which images are human-labelled, and which are left out, once."""
        return _Builder(self)


class _Builder:
    def __init__(self, job: BuildJob) -> None:
        self._job = job
        tables = (
            table for folder in job.human for table in shards.iter_columns(files.place(folder), ["image_id", "sha256"])
        )
        self._known = Known.of(
            pair
            for table in tables
            for pair in zip(table["image_id"].to_pylist(), table["sha256"].to_pylist(), strict=True)
        )
        rows = [] if job.left_out is None else shards.read_rows(files.place(job.left_out))
        self._left_out = {row["image_id"]: row["reason"] for row in rows}

    def run(self, item: int) -> Record:
        """Write the labels of one shard, and its commit."""
        job, source, counts = self._job, self._job.sources[item], MergeCounts()
        records = shards.read_shard(files.place(job.run) / source.labels, images=False)
        chosen = (record for record in records if record.image_id not in source.skipped)
        if source.human:
            merged = list(human_labels(chosen, counts))
        else:
            merged = list(pseudo_labels(chosen, self._known, counts, self._left_out, job.not_taught))
        out = files.place(job.out)
        written = shards.write_shard(out / shards.part_name(item), merged, job.config_hash)
        images = ImageShard(file=source.images, sha256=source.images_sha256)
        commit = Commit(
            item=item,
            fingerprint=job.fingerprint,
            image_shard=images,
            counts=counts.as_record(),
            **written.model_dump(),
        )
        write_commit(out, commit)
        return commit.model_dump()


def _build(context: Context, round: int, fold: Fold) -> None:
    paths = context.paths
    added = batches(paths, round)
    human = [paths.split(name) for name in fold.train]
    pseudo = [paths.pseudo(round, fold.suffix), paths.split(UNLABELLED)] if round else []
    # With folds, those who evaluate the fold say which images it must not learn from.
    placed = [paths.split(fold.val)] if round and fold.suffix else []
    step = Step(
        round=round,
        name=f"build {fold.member('the training set')}",
        output=paths.train(round, fold.suffix),
        settings=context.read("data.classes", *(["rounds.curriculum"] if round else [])),
        inputs=(*human, *pseudo, *placed, *added, *([paths.filter(round)] if round else [])),
        total=sum(read_manifest(folder).rows for folder in (*human, *pseudo[:1], *added)),
    )

    def work() -> None:
        job = _job(context, step, fold, added)
        if round:
            names = FilterFile.read(paths.filter(round)).not_taught
            job = replace(
                job,
                sources=(*job.sources, *_pseudo_sources(context, pseudo[0])),
                not_taught=frozenset(context.config.data.classes.index(name) for name in names),
                left_out=_write_left_out(context, step, _left_out(context, round, fold, added)),
            )
        counts = _carry_out(context, step, job)
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


def _build_human(context: Context, round: int, fold: Fold) -> None:
    """All human labels of a round alone, for its control."""
    paths, added = context.paths, batches(context.paths, round)
    human = [paths.split(name) for name in fold.train]
    placed = [paths.split(fold.val)] if fold.suffix else []
    step = Step(
        round=round,
        name=f"build {fold.member('the human labels')}",
        output=paths.human(round, fold.suffix),
        settings=context.read("data.classes"),
        inputs=(*human, *placed, *added),
        total=sum(read_manifest(folder).rows for folder in (*human, *added)),
    )

    def work() -> None:
        _carry_out(context, step, _job(context, step, fold, added))

    do(context, step, work)


# --- the shards of a set ------------------------------------------------------------------------------


def _job(context: Context, step: Step, fold: Fold, added: Sequence[Path]) -> BuildJob:
    """What makes a set of the human labels that a fold may learn from; those added since the start come last."""
    paths = context.paths
    human = [paths.split(name) for name in fold.train]
    sources = [source for folder in human for source in _human_sources(context, folder)]
    judged = judged_images(context, fold, added) if added else frozenset()
    last = last_batch(added)
    for folder in added:
        ids = read_batch(folder).images
        skipped = frozenset(image_id for image_id in ids if last[image_id] != folder or image_id in judged)
        sources += _human_sources(context, folder, skipped)
    return BuildJob(
        out=str(step.output),
        fingerprint=context.ledger.fingerprint(step),
        config_hash=context.config_hash,
        run=str(paths.root),
        sources=tuple(sources),
        human=tuple(map(str, (*human, *added))),
    )


def _human_sources(context: Context, folder: Path, skipped: frozenset[str] = frozenset()) -> Iterator[LabelSource]:
    for shard in read_manifest(folder).shards:
        file = below(context.paths, folder / shard.file)
        yield LabelSource(file, file, shard.sha256, True, skipped)


def _pseudo_sources(context: Context, folder: Path) -> Iterator[LabelSource]:
    """The shards of pseudo-labels, each beside that of its images."""
    images = context.paths.split(UNLABELLED)
    for shard, image in zip(read_manifest(folder).shards, read_manifest(images).shards, strict=True):
        yield LabelSource(
            below(context.paths, folder / shard.file), below(context.paths, images / image.file), image.sha256, False
        )


def _carry_out(context: Context, step: Step, job: BuildJob) -> TrainingCounts:
    """Make the shards that are not committed, then the manifest; returns what went in and what was left out."""
    started = time.monotonic()
    commits = read_commits(step.output, Commit, lambda _: job.fingerprint)
    rows = list(_rows_of(context, job))
    done = sum(rows[item] for item in commits)
    context.watcher.advance(done)

    def on_done(item: int, record: Record) -> None:
        nonlocal done
        commits[item] = Commit.model_validate(record)
        done += rows[item]
        context.watcher.advance(done)

    todo = [item for item in range(len(job.sources)) if item not in commits]
    outcome = context.engine.map(job, todo, on_done, lambda: None, context.watcher.incident)
    if outcome.failed:
        raise failed_on_data(step.name, outcome.failed)
    listed = [commits[item] for item in sorted(commits)]
    counts = TrainingCounts.sum(each.counts for each in listed if each.counts is not None)
    seconds = time.monotonic() - started
    write_manifest(step.output, job.fingerprint, seconds, [each.shard() for each in listed], counts)
    return counts


def _rows_of(context: Context, job: BuildJob) -> Iterator[int]:
    """The rows of each source, as the manifest of its folder states them."""
    stated: dict[Path, dict[str, int]] = {}
    for source in job.sources:
        path = context.paths.root / source.labels
        if path.parent not in stated:
            stated[path.parent] = {shard.file: shard.rows for shard in read_manifest(path.parent).shards}
        yield stated[path.parent][path.name]


# --- what the images of all shards decide together ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class RankJob:
    """Says of each image of a shard of pseudo-labels how well it is labelled."""

    pseudo: str
    name: str = "rank pseudo-labels"
    uses_device: bool = False

    def start(self) -> Worker:
        """Nothing to load."""
        return self

    def run(self, item: int) -> Record:
        """The images of one shard that have accepted cells."""
        records = shards.read_shard(files.place(self.pseudo) / shards.part_name(item))
        return {"ranked": [each for record in records if (each := rank(record)) is not None]}


def _left_to_later_rounds(context: Context, round: int, fold: Fold, share: float) -> set[str]:
    """The ids of the unlabelled images that later rounds take: all but the best labelled `share` of each class."""
    folder = context.paths.pseudo(round, fold.suffix)
    job, items, told = RankJob(str(folder)), shard_items(folder), context.watcher.incident
    outcome = context.engine.map(job, items, lambda *_: None, lambda: None, told)
    if outcome.failed:
        raise failed("rank pseudo-labels", outcome.failed)
    return held_back((Ranked(*each) for record in outcome.done.values() for each in record["ranked"]), share)


def _left_out(context: Context, round: int, fold: Fold, added: Sequence[Path]) -> dict[str, str]:
    """The unlabelled images that do not teach, whatever their labels, and why."""
    pool = context.paths.split(UNLABELLED)
    share = share_of_round(context.config.rounds.curriculum, round)
    late = _left_to_later_rounds(context, round, fold, share) if share < 1 else ()
    return (
        dict.fromkeys(late, HELD_BACK)
        | dict.fromkeys(judged_images(context, fold), OF_JUDGED)
        | dict.fromkeys(labelled_since(added, pool), LABELLED_SINCE)
    )


def _write_left_out(context: Context, step: Step, left_out: Mapping[str, str]) -> str | None:
    """The table that the workers read; None where nothing is left out."""
    if not left_out:
        return None
    path = step.output / LEFT_OUT_FILE
    rows = [{"image_id": image_id, "reason": reason} for image_id, reason in sorted(left_out.items())]
    shards.write_rows(path, rows, LEFT_OUT, context.config_hash)
    return str(path)


def _reasons(counts: TrainingCounts) -> str:
    """How many unlabelled images were left out, by reason."""
    return ", ".join(f"{count} ({reason})" for reason, count in sorted(counts.left_out.items()))
