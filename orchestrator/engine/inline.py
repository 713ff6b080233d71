"""The engine without Ray: everything in this process, one item after another, under the same rules.

For tests, debuggers and machines where Ray cannot run. A deadline cannot be kept here, since nobody is
left to watch the clock, and `tasks` gets a fresh worker but not a fresh process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Self

from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.fault import Fault, attempt
from cellsemi.orchestrator.engine.pool import Command, Kill, Pool, Rules, Send, Spawn, map_rules, task_rules
from cellsemi.orchestrator.engine.protocol import Job, OnDone, Outcome, Tick, Worker

log = logging.getLogger(__name__)


class InlineEngine:
    """Engine in this process."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config

    def map(self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick) -> Outcome:
        """See Engine.map."""
        return _carry_out(job, items, map_rules(self._config, job.name), on_done, tick)

    def tasks(self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick) -> Outcome:
        """See Engine.tasks."""
        return _carry_out(job, items, task_rules(self._config, job.name), on_done, tick)

    def describe(self) -> str:
        """One line."""
        return "in-process"

    def close(self) -> None:
        """Nothing was started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _carry_out(job: Job, items: Sequence[int], rules: Rules, on_done: OnDone, tick: Tick) -> Outcome:
    pool = Pool(items, rules, time.monotonic())
    workers: dict[int, Worker] = {}
    while not pool.over:
        for command in pool.decide(time.monotonic()):
            _obey(command, job, pool, workers, on_done)
            if isinstance(command, Send):
                tick()
    return pool.outcome


def _obey(command: Command, job: Job, pool: Pool, workers: dict[int, Worker], on_done: OnDone) -> None:
    match command:
        case Spawn(number):
            started = attempt(job.start)
            pool.placed(number, time.monotonic())
            if isinstance(started, Fault):
                log.warning("%s: the worker could not start\n%s", job.name, started.trace)
                pool.start_failed(number, started, time.monotonic())
            else:
                workers[number] = started
                pool.ready(number, time.monotonic())
        case Send(number, item):
            worker = workers[number]
            record = attempt(lambda: worker.run(item))
            if isinstance(record, Fault):
                log.warning("%s: item %d failed\n%s", job.name, item, record.trace)
                pool.faulted(number, record, time.monotonic())
            else:
                pool.finished(number, record, time.monotonic())
                on_done(item, record)
        case Kill(number):
            workers.pop(number, None)
