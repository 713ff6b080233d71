"""Runs jobs on Ray: long-lived actors that follow the decisions of the scheduler.

A process takes seconds to start and to import what it needs, so actors stand between stages and rounds: those that
hold a GPU, and those that hold none. Both do work that needs no GPU. Idle ones end where another needs their room.

Ray only places processes and transports item numbers. Our scheduler decides what is retried and when a
worker is given up, because Ray's own retries can bind an item to a worker that never gets a place again.
The files show what is done, never Ray.

A training that holds a GPU gets a process of its own, which returns all memory of the GPU when it ends; others are done
by the standing processes. It is an actor, too: Ray may run a task in a process that another task has used, and a
task that hangs cannot be killed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from cellsemi.configs.errors import EngineError
from cellsemi.configs.schema import EngineConfig
from cellsemi.models.training.stop import Terminated, deferred, stop_if_wanted
from cellsemi.orchestrator.engine.actors import TICK_S, Actors, Host, WorkerKind
from cellsemi.orchestrator.engine.cluster_state import (
    cluster_resources,
    had_gpus,
    no_place_message,
    nodes_that_fit,
    note_gpus,
    workers_that_fit,
)
from cellsemi.orchestrator.engine.node_check import NodeCheck, versions_here
from cellsemi.orchestrator.engine.protocol import Incident, Job, OnDone, OnIncident, Outcome, Tick, unreported
from cellsemi.orchestrator.engine.ray_start import RaySession, alive_nodes
from cellsemi.orchestrator.engine.resources import WorkerResources, resources_per_worker, with_noun
from cellsemi.orchestrator.engine.scheduler import Scheduler
from cellsemi.orchestrator.engine.scheduling_rules import SchedulingRules, map_rules, task_rules
from cellsemi.orchestrator.engine.usage import Meter, Usage

log = logging.getLogger(__name__)

RECOUNT_S = 5.0  # between two counts of what a cluster holds
PROGRESS_LOOKS = 10  # at the progress of a student within its deadline
LOOK_MOST_S = 15.0  # between two such looks
SAY_WAITING_S = 60.0  # without a place for this long: it is said
PATIENCE_LOCAL_S = 120.0  # the Ray that we started has all its resources from the start
MOST_WORKERS = 10_000


@dataclass(frozen=True, slots=True)
class _Callbacks:
    """What the caller of `map` or `tasks` is told, and how."""

    on_done: OnDone
    tick: Tick
    on_incident: OnIncident


class RayEngine:
    """Engine on a Ray that `start_ray` has started or joined."""

    def __init__(self, config: EngineConfig, session: RaySession) -> None:
        self._config = config
        self._session: RaySession | None = session
        self._address = session.address
        self._version = session.version
        self._probe = session.probe
        self._run_folder = session.run_folder
        self._idle: list[Host] = []
        self._meter = Meter()
        self._banned = dict(session.banned)  # nodes, by the names of messages, and why
        self._untold = [
            Incident("banned", f"no worker is placed there: {why}", node) for node, why in self._banned.items()
        ]

    def map(
        self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick, on_incident: OnIncident = unreported
    ) -> Outcome:
        """See Engine.map. `engine.workers` null: as many as the work is worth, on an own Ray as many as fit."""
        with deferred():
            resources = self._resources(uses_device=job.uses_device)
            rules = map_rules(self._config, job)
            return self._run(job, self._scheduler(items, rules), resources, _Callbacks(on_done, tick, on_incident))

    def tasks(
        self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick, on_incident: OnIncident = unreported
    ) -> Outcome:
        """See Engine.tasks. An item that holds a GPU has a process of its own."""
        with deferred():
            resources = self._resources(uses_device=job.uses_device).times(self._config.workers_per_student)
            rules = task_rules(self._config, job, fresh=resources.gpus > 0)
            return self._run(job, self._scheduler(items, rules), resources, _Callbacks(on_done, tick, on_incident))

    def describe(self) -> str:
        """One line, with a hint when GPUs would not be used."""
        config, total = self._config, cluster_resources()
        counts = [with_noun(total["CPU"], "CPU")] + ([with_noun(total["GPU"], "GPU")] if total["GPU"] else [])
        if self._address is None:
            line = f"local Ray {self._version}, {', '.join(counts)}"
        else:
            counts = [with_noun(len(alive_nodes()), "node"), *counts]
            line = f"Ray {self._version} cluster at {self._address}: {', '.join(counts)}"
        if total["GPU"] and not resources_per_worker(config, True, total["GPU"]).gpus:
            line += "; no GPU is reserved, since engine.gpus_per_worker is 0 or engine.device is cpu"
        if not total["GPU"] and self._promised_gpus():
            line += "; no GPU is alive, work that needs one waits for it"
        return line

    def workers(self) -> int:
        """See Engine.workers."""
        resources = self._resources(uses_device=True)
        return self._config.workers or max(1, workers_that_fit(resources))

    def cpus_for_each(self, students: int) -> float:
        """See Engine.cpus_for_each: of the node that has the fewest for each."""
        resources = self._resources(uses_device=True).times(self._config.workers_per_student)
        return min((resources.cpus_for_each(node.resources, students) for node in alive_nodes()), default=0.0)

    def take_usage(self) -> Usage:
        """See Engine.take_usage."""
        gpus = None if self._session is None else cluster_resources()["GPU"]
        return self._meter.take(time.monotonic(), gpus)

    def close(self) -> None:
        """See Engine.close."""
        session, self._session = self._session, None
        self._idle = []
        if session is not None:
            with deferred():
                session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _resources(self, *, uses_device: bool) -> WorkerResources:
        """What a worker reserves on the cluster of now, or on the one that the run waits for."""
        gpus = cluster_resources()["GPU"]
        found = resources_per_worker(self._config, uses_device, gpus or float(self._promised_gpus()))
        if gpus and found.gpus:
            note_gpus(self._run_folder)
        return found

    def _promised_gpus(self) -> bool:
        """Whether the run works on GPUs even where none is alive now: it has, or it is told to."""
        asked = self._address is not None and self._config.device.startswith("cuda")
        return self._config.device != "cpu" and (asked or had_gpus(self._run_folder))

    def _scheduler(self, items: Sequence[int], rules: SchedulingRules) -> Scheduler:
        return Scheduler(items, rules, time.monotonic(), banned=self._banned)

    def _run(self, job: Job, scheduler: Scheduler, resources: WorkerResources, call: _Callbacks) -> Outcome:
        self._check_worker_fits(resources)
        shared = self._address is not None
        check = NodeCheck(self._probe, versions_here() if shared else {}, cuda=resources.gpus > 0)
        idle, self._idle = self._idle, []
        actors = Actors(job, scheduler, WorkerKind(resources, check, shared), call.on_done, idle=idle)
        every_s = min(LOOK_MOST_S, (scheduler.rules.deadline_s or LOOK_MOST_S) / PROGRESS_LOOKS)
        counted_s = ticked_s = looked_s = -float("inf")
        self._meter.begin(scheduler, resources.gpus)
        try:
            while not scheduler.over:
                stop_if_wanted()
                now_s = time.monotonic()
                recount = now_s - counted_s >= RECOUNT_S
                if recount:
                    counted_s = now_s
                    self._recount(scheduler, resources)
                    self._wait_for_place(job, scheduler, resources, now_s)
                if now_s - looked_s >= every_s:
                    looked_s = now_s
                    actors.look_at_progress(now_s)
                actors.step(now_s)
                self._meter.sample(actors.held, time.monotonic())
                self._report(job.name, scheduler, call)
                if recount:
                    actors.make_room(now_s)
                    actors.look_for_places(now_s)
                if time.monotonic() - ticked_s >= TICK_S:
                    call.tick()
                    ticked_s = time.monotonic()
            self._idle = actors.hand_over()
            self._banned |= scheduler.banned_for_the_run  # not where no node was left: then the work is to blame
        except Terminated:
            actors.let_save(self._config.grace_s)
            raise
        finally:
            self._report(job.name, scheduler, call)
            self._meter.end(time.monotonic())
            self._meter.sample([host.held for host in self._idle], time.monotonic())
            actors.dismiss()
        return scheduler.outcome

    def _recount(self, scheduler: Scheduler, resources: WorkerResources) -> None:
        """Tell the scheduler what the cluster holds now, and how many workers there may be."""
        nodes = nodes_that_fit(resources)
        scheduler.nodes = set(nodes)
        fit = sum(resources.workers_on(node.resources) for name, node in nodes.items() if name not in scheduler.banned)
        most = self._config.workers or MOST_WORKERS
        scheduler.wanted = min(most, fit if self._address is None else max(fit, scheduler.worth))

    def _wait_for_place(self, job: Job, scheduler: Scheduler, resources: WorkerResources, now_s: float) -> None:
        """Say what the work waits for; EngineError when it has waited for too long."""
        waited_s = scheduler.waited_s(now_s)
        if resources.gpus and not cluster_resources()["GPU"] and not scheduler.over:
            why = f"{job.name}: no GPU is alive, and this run works on GPUs: it waits for one. On CPUs it goes on with "
            scheduler.waiting(f"{why}--set engine.device=cpu", now_s)
        elif waited_s > SAY_WAITING_S:
            scheduler.waiting(no_place_message(job.name, resources, scheduler.pending, waited_s), now_s)
        patience_s = PATIENCE_LOCAL_S if self._address is None else self._config.place_deadline_s
        if waited_s > patience_s:
            raise EngineError(no_place_message(job.name, resources, scheduler.pending, patience_s))

    def _report(self, name: str, scheduler: Scheduler, call: _Callbacks) -> None:
        told, self._untold = [*self._untold, *scheduler.take_incidents()], []
        for incident in told:
            log.warning("%s: %s", name, incident)
            call.on_incident(incident)

    def _check_worker_fits(self, resources: WorkerResources) -> None:
        """EngineError when a worker is larger than our own Ray, which does not grow."""
        if self._address is None and workers_that_fit(resources) == 0:
            total = cluster_resources()
            remedy = "lower engine.cpus_per_worker or engine.gpus_per_worker"
            if resources.gpus and not total["GPU"] and self._promised_gpus():
                remedy = "this run has worked on GPUs: --set engine.device=cpu goes on without, --address on a cluster"
            raise EngineError(
                f"a worker asks for {resources}, this machine has {with_noun(total['CPU'], 'CPU')} "
                f"and {with_noun(total['GPU'], 'GPU')}; {remedy}"
            )
