"""Runs a job over all shards of a folder, as one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cellsemi.orchestrator.engine.protocol import Failure, Job, Record
from cellsemi.orchestrator.stages.context import Context, Finish, do_all, failed
from cellsemi.orchestrator.stages.jobs import ShardStage
from cellsemi.rounds.store.manifest import Commit, read_commits, read_manifest, shard_items, write_manifest
from cellsemi.rounds.store.steps import Step

GiveUp = Callable[[ShardStage, Failure], Record]


@dataclass(frozen=True, slots=True)
class ShardWork:
    """A step over the shards of `source`: it writes a shard for each into the step's output, a folder.

    A shard that failed on every attempt goes to `give_up`, which writes what can be kept of it and returns its commit;
    without it the step fails.
    """

    step: Step
    source: Path
    make_job: Callable[[ShardStage], Job]
    give_up: GiveUp | None = None


def over_shards(context: Context, work: ShardWork) -> None:
    """Do the step unless it is done; shards that another call committed are kept. EngineError as `ShardWork` states."""
    source = work.source
    rows = {i: shard.rows for i, shard in enumerate(read_manifest(source).shards)}
    step = replace(work.step, inputs=(*work.step.inputs, source), total=sum(rows.values()))

    def carry_out(_: Sequence[Step], finish: Finish) -> None:
        started = time.monotonic()
        _do_shards(context, replace(work, step=step), rows, started)
        finish(step, time.monotonic() - started)

    do_all(context, step.name, [step], carry_out)


def _do_shards(context: Context, work: ShardWork, rows: dict[int, int], started: float) -> None:
    out, fingerprint = work.step.output, context.ledger.fingerprint(work.step)
    stage = ShardStage(str(work.source), str(out), fingerprint, context.config_hash)
    commits = read_commits(out, fingerprint, Commit)
    todo = [item for item in shard_items(work.source) if item not in commits]
    context.watcher.advance(sum(rows[item] for item in commits))

    def on_done(item: int, record: Record) -> None:
        commits[item] = Commit.model_validate(record)
        context.watcher.advance(sum(rows[i] for i in commits))

    outcome = context.engine.map(work.make_job(stage), todo, on_done, _no_tick, context.watcher.incident)
    for failure in outcome.failed:
        if work.give_up is None:
            raise failed(work.step.name, outcome.failed)
        commits[failure.item] = Commit.model_validate(work.give_up(stage, failure))
    done = [commits[item].shard() for item in sorted(commits)]
    write_manifest(out, fingerprint, time.monotonic() - started, done)


def _no_tick() -> None:
    """Shard stages report when a shard is done; there is nothing to poll."""
