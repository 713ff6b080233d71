"""Tries the images of shards that failed one by one, so that an image that no worker survives costs only itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cellsemi.orchestrator.engine.protocol import Failure, Job, Record
from cellsemi.orchestrator.steps.context import Context, failed
from cellsemi.orchestrator.steps.jobs import ShardStage
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.manifest import Commit, read_commits, read_manifest, write_manifest
from cellsemi.rounds.store.schemas import ImageRecord

FOLDER = "_images"  # below the output of the step, while it goes on


@dataclass(frozen=True, slots=True)
class _Alone:
    """The images of the shards that failed, each in a shard of its own: `first` is the number of a shard's first."""

    stage: ShardStage
    first: dict[int, int]
    total: int


def image_by_image(
    context: Context,
    title: str,
    make_job: Callable[[ShardStage], Job],
    stage: ShardStage,
    failures: Sequence[Failure],
) -> dict[int, Commit]:
    """Do the shards that failed image by image; returns their commits by item.

    An image that fails again on every attempt stays in the table, without cells and not predicted, and the commit says
    why. EngineError when that would be every image of the folder: then the images are not the cause.
    """
    alone = _each_alone(stage, [failure.item for failure in failures])
    found = files.place(alone.stage.out)
    done = read_commits(found, Commit, alone.stage.fingerprint)

    def on_done(item: int, record: Record) -> None:
        done[item] = Commit.model_validate(record)

    todo = [item for item in range(alone.total) if item not in done]
    outcome = context.engine.map(make_job(alone.stage), todo, on_done, lambda: None, context.watcher.incident)
    lost = {failure.item: failure for failure in outcome.failed}
    if len(lost) == read_manifest(files.place(stage.source)).rows:
        raise failed(title, outcome.failed)
    commits = {item: _joined(stage, alone, item, done, lost) for item in alone.first}
    for commit in commits.values():
        for image_id, why in commit.lost.items():
            context.watcher.note(f"{title}: image {image_id} was left out, {why}")
    files.remove_folder(_folder(stage))
    return commits


def _folder(stage: ShardStage) -> Path:
    return files.place(stage.out) / FOLDER


def _each_alone(stage: ShardStage, items: Sequence[int]) -> _Alone:
    images = _folder(stage) / "images"
    first: dict[int, int] = {}
    written: list[shards.Shard] = []
    for item in items:
        first[item] = len(written)
        for record in stage.records(item):
            written.append(shards.write_shard(images / shards.part_name(len(written)), [record], stage.config_hash))
    write_manifest(images, "", 0.0, written)
    out = str(_folder(stage) / "found")
    return _Alone(replace(stage, source=str(images), out=out, made_from=(str(images),)), first, len(written))


def _joined(stage: ShardStage, alone: _Alone, item: int, done: dict[int, Commit], lost: dict[int, Failure]) -> Commit:
    """One shard of what was found in its images; those that were lost stay without cells."""
    numbers = range(alone.first[item], alone.first[item] + sum(1 for _ in stage.records(item)))
    rows = list(_rows(stage, alone, item, lost))
    commits = [done[number] for number in numbers if number not in lost]
    counted = {
        name: dict(sum((Counter(getattr(commit, name)) for commit in commits), Counter()))
        for name in ("warnings", "scales", "inverted")
    }
    why = {row.image_id: lost[number].error for number, row in zip(numbers, rows, strict=True) if number in lost}
    return Commit.model_validate(stage.commit(item, rows, lost=why, **counted))


def _rows(stage: ShardStage, alone: _Alone, item: int, lost: dict[int, Failure]) -> Iterator[ImageRecord]:
    for number, record in enumerate(stage.records(item), start=alone.first[item]):
        if number in lost:
            yield record.with_(image=None, instances=None)
        else:
            yield from shards.read_shard(files.place(alone.stage.out) / shards.part_name(number))
