"""The rules and the commands of the scheduler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.protocol import Job, ShowsProgress

SAY_AGAIN_S = 900.0  # between two incidents of the same waiting
PENDING_MOST = 100  # workers without a place at once: what an autoscaler sees grows with what it gives
ITEMS_PER_MACHINE = 4  # shards that are worth the start of a worker on a machine that is not there yet

Loss = Literal["lost", "frozen", "preempted"]
Memory = Literal["enough", "unknown", "short"]  # unknown: killed from outside, as the system does when memory is short


@dataclass(frozen=True, slots=True)
class SchedulingRules:
    """How the scheduler treats its workers; times in seconds.

    `deadline_s` is how long a worker may be silent on one item, None for ever. With a `first_sign_s` the job shows
    progress: so long may the first sign of it take, and `deadline_s` counts from the last one.
    """

    name: str  # of the job, for messages
    max_attempts: int
    start_deadline_s: float
    deadline_s: float | None
    depth: int = 2
    fresh: bool = False  # a new worker for every item
    first_sign_s: float | None = None
    items_per_machine: int = ITEMS_PER_MACHINE
    saved_every_s: float | None = None  # an item that is lost costs at most this: it goes on from a checkpoint


@dataclass(frozen=True, slots=True)
class Spawn:
    """Ask for a new worker."""

    worker: int


@dataclass(frozen=True, slots=True)
class Send:
    """Give an item to a ready worker, behind the items that it holds.

    The item gets along with 1 / 2 ** `less_memory` of the memory, where its job can.
    """

    worker: int
    item: int
    less_memory: int = 0


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker; `why` is empty when its work is done."""

    worker: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Ban:
    """Place no worker on this node any more, and ask anew for those that have no place yet."""

    node: str


SchedulerCommand = Spawn | Send | Kill | Ban


def map_rules(config: EngineConfig, job: Job) -> SchedulingRules:
    """Rules of `Engine.map`."""
    return SchedulingRules(job.name, config.max_attempts, config.start_deadline_s, config.shard_deadline_s)


def task_rules(config: EngineConfig, job: Job, fresh: bool) -> SchedulingRules:
    """Rules of `Engine.tasks`: a deadline where progress is shown; `fresh` with a new worker for every item."""
    watched = isinstance(job, ShowsProgress)
    return SchedulingRules(
        job.name,
        config.max_attempts,
        config.start_deadline_s,
        config.progress_deadline_s if watched else None,
        depth=1,
        fresh=fresh,
        first_sign_s=config.start_deadline_s if watched else None,
        items_per_machine=1,
        saved_every_s=config.checkpoint_s,
    )
