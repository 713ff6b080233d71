"""Runs jobs in this process, without Ray: one item after another, under the same rules.

For tests, debuggers and machines where Ray cannot run. Deadlines do not apply here, because the only process
is busy with the item, and `tasks` gets a fresh worker but not a fresh process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Self

from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.fault import Fault, attempt
from cellsemi.orchestrator.engine.protocol import Job, OnDone, Outcome, Tick, Worker
from cellsemi.orchestrator.engine.resources import cpu_count
from cellsemi.orchestrator.engine.scheduler import (
    Kill,
    Scheduler,
    SchedulerCommand,
    SchedulingRules,
    Send,
    Spawn,
    map_rules,
    task_rules,
)

log = logging.getLogger(__name__)


class InlineEngine:
    """An engine that works in this process."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config

    def map(self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick) -> Outcome:
        """See Engine.map."""
        return _run(job, items, map_rules(self._config, job.name), on_done, tick)

    def tasks(self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick) -> Outcome:
        """See Engine.tasks."""
        return _run(job, items, task_rules(self._config, job.name, fresh=True), on_done, tick)

    def describe(self) -> str:
        """One line."""
        return "in-process"

    def workers(self) -> int:
        """See Engine.workers: this process."""
        return 1

    def cpus_for_each(self, students: int) -> float:
        """See Engine.cpus_for_each: one student after another is trained."""
        return cpu_count()

    def close(self) -> None:
        """Nothing was started, so nothing is stopped."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _run(job: Job, items: Sequence[int], rules: SchedulingRules, on_done: OnDone, tick: Tick) -> Outcome:
    scheduler = Scheduler(items, rules, time.monotonic())
    workers: dict[int, Worker] = {}
    while not scheduler.over:
        for command in scheduler.decide(time.monotonic()):
            _execute(command, job, scheduler, workers, on_done)
            if isinstance(command, Send):
                tick()
    return scheduler.outcome


def _execute(
    command: SchedulerCommand, job: Job, scheduler: Scheduler, workers: dict[int, Worker], on_done: OnDone
) -> None:
    match command:
        case Spawn(number):
            started = attempt(job.start)
            scheduler.placed(number, time.monotonic())
            if isinstance(started, Fault):
                log.warning("%s: the worker could not start\n%s", job.name, started.trace)
                scheduler.start_failed(number, started, time.monotonic())
            else:
                workers[number] = started
                scheduler.ready(number, time.monotonic())
        case Send(number, item):
            worker = workers[number]
            record = attempt(lambda: worker.run(item))
            if isinstance(record, Fault):
                log.warning("%s: item %d failed\n%s", job.name, item, record.trace)
                scheduler.faulted(number, record, time.monotonic())
            else:
                scheduler.finished(number, record, time.monotonic())
                on_done(item, record)
        case Kill(number):
            workers.pop(number, None)
