"""Makes several steps over the same shards in one pass: each image is read and decoded once for all of them.

A worker holds the models of the pass. It takes a shard through all of them, fuses and filters what they found, and
commits each step's shard on its own, so that a later call finds exactly what is missing of each step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cellsemi.models.model_files import WEIGHTS_FILE
from cellsemi.orchestrator.engine.protocol import Job, Record, Worker
from cellsemi.orchestrator.steps.context import Context
from cellsemi.orchestrator.steps.jobs import DecodedImages, PredictJob, ShardStage
from cellsemi.orchestrator.steps.over_shards import ShardWork, no_tick, over_shards
from cellsemi.rounds.store.unaltered import record_path


@dataclass(frozen=True, slots=True)
class OnePassJob:
    """Does several jobs on each shard, in this order, each of its stage; what is committed is kept."""

    jobs: tuple[Job, ...]
    stages: tuple[ShardStage, ...]
    name: str
    uses_device: bool = True

    def start(self) -> Worker:
        """Start all of them."""
        return _OnePass(self)


class _OnePass:
    def __init__(self, job: OnePassJob) -> None:
        decoded = DecodedImages()
        workers = [each.start_with(decoded) if isinstance(each, PredictJob) else each.start() for each in job.jobs]
        self._steps = list(zip(job.stages, workers, strict=True))

    def run(self, item: int) -> Record:
        """The seconds of each job, 0 where the shard was there."""
        seconds = []
        for stage, worker in self._steps:
            started = time.monotonic()
            if not stage.is_done(item):
                worker.run(item)
            seconds.append(time.monotonic() - started)
        return {"seconds": seconds}


def one_pass(
    context: Context, title: str, predictions: Sequence[tuple[ShardWork, Path]], then: Sequence[ShardWork]
) -> None:
    """Do steps over the same shards: predictions, each with the folder of its model, and what is made from them.

    Models are held together as far as their weights allow (`engine.weights_per_pass_mb`); what follows is made in the
    last pass. What a pass leaves, since a shard failed in it, each step does by itself. Then all are done.
    """
    todo = [each for each in predictions if not context.ledger.is_done(each[0].whole_step)]
    groups = list(_that_fit(todo, context.config.engine.weights_per_pass_mb))
    took: dict[Path, float] = {}
    for number, group in enumerate(groups, start=1):
        last = number == len(groups)
        behind = [work for work in then if not record_path(work.step.output).is_file()] if last else []
        if len(group) + len(behind) > 1:
            which = title if len(groups) == 1 else f"{title}, pass {number} of {len(groups)}"
            took |= _pass(context, which, group, behind)
        for work in group if not last else ():  # what follows needs every shard of it
            over_shards(context, work, took.get(work.step.output, 0.0))
    for work in [*(work for work, _ in predictions), *then]:
        over_shards(context, work, took.get(work.step.output, 0.0))


def _that_fit(todo: Sequence[tuple[ShardWork, Path]], limit_mb: int) -> Iterator[list[ShardWork]]:
    """Models by passes, in order: as many at once as have no more weights than this; at least one."""
    group: list[ShardWork] = []
    held = 0
    for work, model in todo:
        weights = model / WEIGHTS_FILE
        size = weights.stat().st_size if weights.is_file() else 0
        if group and held + size > limit_mb << 20:
            yield group
            group, held = [], 0
        group.append(work)
        held += size
    if group:
        yield group


def _pass(context: Context, title: str, group: Sequence[ShardWork], then: Sequence[ShardWork]) -> dict[Path, float]:
    """One pass; returns the seconds of each step, by its output: the time of the pass, shared by what workers took."""
    started = time.monotonic()
    works = [*group, *then]
    rows = group[0].rows
    stages = [work.stage(context) for work in works]
    jobs = tuple(work.make_job(stage) for work, stage in zip(works, stages, strict=True))
    done = {item for item in rows if all(stage.is_done(item) for stage in stages[: len(group)])}
    context.check_space()
    context.watcher.stage(group[0].step.round, title, sum(rows.values()), "images")
    for work in group:
        context.ledger.begin(work.whole_step)
    seconds = [0.0] * len(works)

    def on_done(item: int, record: Record) -> None:
        done.add(item)
        seconds[:] = [sum(pair) for pair in zip(seconds, record["seconds"], strict=True)]
        context.watcher.advance(sum(rows[each] for each in done))

    job = OnePassJob(jobs, tuple(stages), title, uses_device=any(each.uses_device for each in jobs))
    context.engine.map(job, [item for item in rows if item not in done], on_done, no_tick, context.watcher.incident)
    took = time.monotonic() - started
    context.watcher.finish(took)
    shared = sum(seconds) or 1.0
    return {work.step.output: took * each / shared for work, each in zip(works, seconds, strict=True)}
