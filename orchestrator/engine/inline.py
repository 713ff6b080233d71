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
from cellsemi.models.inference.less_memory import less_memory
from cellsemi.orchestrator.engine.fault import Fault, attempt
from cellsemi.orchestrator.engine.protocol import Job, OnDone, OnIncident, Outcome, Tick, Worker, unreported
from cellsemi.orchestrator.engine.resources import cpu_count
from cellsemi.orchestrator.engine.scheduler import Scheduler
from cellsemi.orchestrator.engine.scheduling_rules import (
    Kill,
    SchedulerCommand,
    Send,
    Spawn,
    map_rules,
    task_rules,
)
from cellsemi.orchestrator.engine.usage import Held, Meter, Usage

log = logging.getLogger(__name__)

HERE = "this process"  # the one node of this engine


class InlineEngine:
    """An engine that works in this process."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._meter = Meter()

    def map(
        self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick, on_incident: OnIncident = unreported
    ) -> Outcome:
        """See Engine.map."""
        scheduler = Scheduler(items, map_rules(self._config, job), time.monotonic())
        return self._run(job, scheduler, on_done, tick, on_incident)

    def tasks(
        self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick, on_incident: OnIncident = unreported
    ) -> Outcome:
        """See Engine.tasks."""
        scheduler = Scheduler(items, task_rules(self._config, job, fresh=True), time.monotonic())
        return self._run(job, scheduler, on_done, tick, on_incident)

    def describe(self) -> str:
        """One line."""
        return "in-process"

    def workers(self) -> int:
        """See Engine.workers: this process."""
        return 1

    def cpus_for_each(self, students: int) -> float:
        """See Engine.cpus_for_each: one student after another is trained."""
        return cpu_count()

    def take_usage(self) -> Usage:
        """See Engine.take_usage: one worker while a job runs."""
        return self._meter.take(time.monotonic())

    def close(self) -> None:
        """Nothing was started, so nothing is stopped."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, job: Job, scheduler: Scheduler, on_done: OnDone, tick: Tick, on_incident: OnIncident) -> Outcome:
        self._meter.sample([Held(HERE, 0.0)], time.monotonic())
        self._meter.begin(scheduler, 0.0)
        try:
            return _carry_out(job, scheduler, on_done, tick, on_incident)
        finally:
            self._meter.end(time.monotonic())
            self._meter.sample([], time.monotonic())


def _carry_out(job: Job, scheduler: Scheduler, on_done: OnDone, tick: Tick, on_incident: OnIncident) -> Outcome:
    workers: dict[int, Worker] = {}
    while not scheduler.over:
        for command in scheduler.decide(time.monotonic()):
            try:
                _execute(command, job, scheduler, workers, on_done)
            finally:
                for incident in scheduler.take_incidents():
                    on_incident(incident)
            if isinstance(command, Send):
                tick()
    return scheduler.outcome


def _execute(
    command: SchedulerCommand, job: Job, scheduler: Scheduler, workers: dict[int, Worker], on_done: OnDone
) -> None:
    match command:
        case Spawn(number):
            scheduler.placed(number, time.monotonic())
            started = attempt(job.start)
            if isinstance(started, Fault):
                log.warning("%s: the worker could not start\n%s", job.name, started.trace)
                scheduler.start_failed(number, started, time.monotonic())
            else:
                workers[number] = started
                scheduler.ready(number, time.monotonic())
        case Send(number, item, halvings):
            worker = workers[number]
            with less_memory(halvings):
                record = attempt(lambda: worker.run(item))
            if isinstance(record, Fault):
                log.warning("%s: item %d failed\n%s", job.name, item, record.trace)
                scheduler.faulted(number, record, time.monotonic())
            else:
                scheduler.finished(number, record, time.monotonic())
                on_done(item, record)
        case Kill(number):
            workers.pop(number, None)
