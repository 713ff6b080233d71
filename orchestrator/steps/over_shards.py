"""Runs a job over all shards of a folder, as one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cellsemi.orchestrator.engine.protocol import Failure, Job, Record
from cellsemi.orchestrator.steps.context import Context, Finish, do_all, failed
from cellsemi.orchestrator.steps.image_by_image import image_by_image
from cellsemi.orchestrator.steps.jobs import ShardStage
from cellsemi.rounds.store.manifest import Commit, read_commits, read_manifest, shard_items, write_manifest
from cellsemi.rounds.store.steps import Step


@dataclass(frozen=True, slots=True)
class ShardWork:
    """A step over the shards of `source`: it writes a shard for each into the step's output, a folder.

    What it makes of a shard depends on the inputs of the step, on that shard, and on the shard of the same number in
    each folder of `also`. With `image_by_image` the images of a shard that failed on every attempt are tried one by
    one, and those that fail again stay in the table without cells, counted; without it the step fails.
    """

    step: Step
    source: Path
    make_job: Callable[[ShardStage], Job]
    also: tuple[Path, ...] = ()
    image_by_image: bool = False

    @property
    def rows(self) -> dict[int, int]:
        """The images of each shard."""
        return {item: shard.rows for item, shard in enumerate(read_manifest(self.source).shards)}

    @property
    def whole_step(self) -> Step:
        """The step with all that it reads, and the number of its images."""
        inputs = (*self.step.inputs, *self.also, self.source)
        return replace(self.step, inputs=inputs, total=sum(self.rows.values()))

    def stage(self, context: Context) -> ShardStage:
        """What its job is given; the folders of `also` may still be in the making."""
        made_from = (str(self.source), *map(str, self.also))
        of_all = context.ledger.fingerprint(self.step)
        return ShardStage(str(self.source), str(self.step.output), of_all, made_from, context.config_hash)

    def committed(self, stage: ShardStage) -> dict[int, Commit]:
        """The shards that an earlier call, or a pass (one_pass), has committed."""
        return read_commits(self.step.output, Commit, stage.fingerprint)


def over_shards(context: Context, work: ShardWork, seconds: float = 0.0) -> None:
    """Do the step unless it is done; shards that are committed are kept. EngineError as `ShardWork` states.

    Those that a pass has made, in `seconds`, are not announced again.
    """
    step = work.whole_step
    made = seconds > 0 and len(work.committed(work.stage(context))) == len(work.rows)

    def carry_out(_: Sequence[Step], finish: Finish) -> None:
        started = time.monotonic()
        _do_shards(context, work, started)
        finish(step, seconds + time.monotonic() - started)

    do_all(context, step.name, [step], carry_out, quiet=made)


def _do_shards(context: Context, work: ShardWork, started: float) -> None:
    rows, stage = work.rows, work.stage(context)
    commits = work.committed(stage)
    todo = [item for item in shard_items(work.source) if item not in commits]

    def on_done(item: int, record: Record) -> None:
        commits[item] = Commit.model_validate(record)
        context.watcher.advance(sum(rows[i] for i in commits))

    failures: tuple[Failure, ...] = ()
    if todo:
        context.watcher.advance(sum(rows[item] for item in commits))
        failures = context.engine.map(work.make_job(stage), todo, on_done, no_tick, context.watcher.incident).failed
    if failures and not work.image_by_image:
        raise failed(work.step.name, failures)
    if failures:
        commits |= image_by_image(context, work.step.name, work.make_job, stage, failures)
    done = [commits[item].shard() for item in sorted(commits)]
    fingerprint = context.ledger.fingerprint(work.whole_step)
    write_manifest(work.step.output, fingerprint, time.monotonic() - started, done)


def no_tick() -> None:
    """Shard stages report when a shard is done; there is nothing to poll."""
