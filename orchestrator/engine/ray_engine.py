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

import contextlib
import logging
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cellsemi.configs.errors import EngineError
from cellsemi.configs.schema import EngineConfig
from cellsemi.models.training.stop import Terminated, deferred, stop_if_wanted
from cellsemi.orchestrator.engine.fault import Fault, in_one_line
from cellsemi.orchestrator.engine.job_actor import JobActor, Place
from cellsemi.orchestrator.engine.protocol import Job, OnDone, Outcome, Tick
from cellsemi.orchestrator.engine.ray_start import Probe, RaySession, alive_nodes
from cellsemi.orchestrator.engine.resources import WorkerResources, in_the_way, resources_per_worker, with_noun
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

TICK_S = 0.2
RECOUNT_S = 5.0  # between two counts of what a cluster holds
SAVE_S = 10.0  # for last checkpoints; a batch system sends SIGKILL some 30 s after SIGTERM
GIVE_WAY_S = 10.0  # without a place for this long, because of the work of others: all idle actors end
PATIENCE_LOCAL_S = 120.0  # the Ray that we started has all its resources from the start
PATIENCE_CLUSTER_S = 900.0  # an autoscaler may have to start a machine


@dataclass(frozen=True, slots=True)
class _Host:
    """A process that is set up, which stands between two jobs: what it reserves, and where it runs."""

    actor: Any
    resources: WorkerResources
    place: Place


class RayEngine:
    """Engine on a Ray that `start_ray` has started or joined."""

    def __init__(self, config: EngineConfig, session: RaySession) -> None:
        self._config = config
        self._session: RaySession | None = session
        self._address = session.address
        self._version = session.version
        self._probe = session.probe
        self._idle: list[_Host] = []

    def map(self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick) -> Outcome:
        """See Engine.map. `engine.workers` null: the most workers that have ever fitted on the cluster."""
        with deferred():
            resources = self._resources(uses_device=job.uses_device)
            return self._run(job, items, map_rules(self._config, job.name), resources, on_done=on_done, tick=tick)

    def tasks(self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick) -> Outcome:
        """See Engine.tasks. An item that holds a GPU has a process of its own."""
        with deferred():
            resources = self._resources(uses_device=job.uses_device).times(self._config.workers_per_student)
            rules = task_rules(self._config, job.name, fresh=resources.gpus > 0)
            return self._run(job, items, rules, resources, on_done=on_done, tick=tick)

    def describe(self) -> str:
        """One line, with a hint when GPUs would not be used."""
        config, total = self._config, _cluster_resources()
        counts = [with_noun(total["CPU"], "CPU")] + ([with_noun(total["GPU"], "GPU")] if total["GPU"] else [])
        if self._address is None:
            line = f"local Ray {self._version}, {', '.join(counts)}"
        else:
            counts = [with_noun(len(alive_nodes()), "node"), *counts]
            line = f"Ray {self._version} cluster at {self._address}: {', '.join(counts)}"
        if total["GPU"] and not resources_per_worker(config, True, total["GPU"]).gpus:
            line += "; no GPU is reserved, since engine.gpus_per_worker is 0 or engine.device is cpu"
        return line

    def workers(self) -> int:
        """See Engine.workers."""
        resources = self._resources(uses_device=True)
        return self._config.workers or max(1, workers_that_fit(resources))

    def cpus_for_each(self, students: int) -> float:
        """See Engine.cpus_for_each: of the node that has the fewest for each."""
        resources = self._resources(uses_device=True).times(self._config.workers_per_student)
        return min((resources.cpus_for_each(node.resources, students) for node in alive_nodes()), default=0.0)

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
        """What a worker reserves on the cluster of now."""
        return resources_per_worker(self._config, uses_device, _cluster_resources()["GPU"])

    def _run(
        self,
        job: Job,
        items: Sequence[int],
        rules: SchedulingRules,
        resources: WorkerResources,
        *,
        on_done: OnDone,
        tick: Tick,
    ) -> Outcome:
        scheduler = Scheduler(items, rules, time.monotonic())
        self._check_worker_fits(resources)
        patience_s = PATIENCE_LOCAL_S if self._address is None else PATIENCE_CLUSTER_S
        idle, self._idle = self._idle, []
        actors = _Actors(job, scheduler, resources, self._probe, on_done, idle=idle)
        counted_s = ticked_s = -float("inf")
        try:
            while not scheduler.over:
                stop_if_wanted()
                now_s = time.monotonic()
                recount = now_s - counted_s >= RECOUNT_S
                if recount:
                    counted_s = now_s
                    scheduler.wanted = max(scheduler.wanted, self._config.workers or workers_that_fit(resources))
                if scheduler.waited_s(now_s) > patience_s:
                    raise EngineError(_no_place_message(job.name, resources, scheduler.pending, patience_s))
                actors.step(now_s)
                if recount:
                    actors.make_room(now_s)
                if time.monotonic() - ticked_s >= TICK_S:
                    tick()
                    ticked_s = time.monotonic()
            self._idle = actors.hand_over()
        except Terminated:
            if self._address is None:
                actors.let_save()
            raise
        finally:
            actors.dismiss()
        return scheduler.outcome

    def _check_worker_fits(self, resources: WorkerResources) -> None:
        """EngineError when a worker is larger than our own Ray, which does not grow."""
        if self._address is None and workers_that_fit(resources) == 0:
            total = _cluster_resources()
            raise EngineError(
                f"a worker asks for {resources}, this machine has {with_noun(total['CPU'], 'CPU')} "
                f"and {with_noun(total['GPU'], 'GPU')}; lower engine.cpus_per_worker or engine.gpus_per_worker"
            )


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of an actor's method that has not been answered."""

    worker: int
    method: Literal["set_up", "start_job", "run"]
    item: int = -1  # of a `run`


class _Actors:
    """The actors of one scheduler and the calls that have not been answered, oldest first.

    `idle` hosts of earlier jobs that can do the work are used before new ones are asked for. The others stand by, and
    end where they hold what the new ones need.
    """

    def __init__(
        self,
        job: Job,
        scheduler: Scheduler,
        resources: WorkerResources,
        probe: Probe | None,
        on_done: OnDone,
        *,
        idle: Sequence[_Host],
    ) -> None:
        self._job, self._scheduler, self._probe, self._on_done = job, scheduler, probe, on_done
        self._resources = resources
        # Our scheduler retries; retries by Ray would hide from it what happened.
        self._actor = ray.remote(JobActor).options(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            max_restarts=0,
            max_task_retries=0,
        )
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, _Call] = {}
        self._hosts: dict[int, _Host] = {}  # of the workers that are set up
        able = [host for host in idle if host.resources.serves(resources) and not scheduler.rules.fresh]
        self._idle = sorted(able, key=lambda host: host.resources != resources)  # its own crew first
        self._others = [host for host in idle if host not in able]
        self._used: set[int] = set()  # workers on an actor of an earlier job

    def step(self, now_s: float) -> None:
        """Carry out the commands of the scheduler, wait a moment for answers, and report them to it."""
        for command in self._scheduler.decide(now_s):
            self._execute(command)
        for call, answer in self._answered():
            self._report(call, answer, time.monotonic())

    def make_room(self, now_s: float) -> None:
        """End hosts that stand by where workers wait for what they hold; all, when no worker gets a place for long."""
        ending = self._others
        if self._scheduler.waited_s(now_s) < GIVE_WAY_S:
            nodes = {node.id: node.resources for node in alive_nodes()}
            busy = [(host.place.node, host.resources) for host in (*self._hosts.values(), *self._idle)]
            held = [(host.place.node, host.resources) for host in self._others]
            places = in_the_way(nodes, busy, held, self._resources, self._scheduler.pending)
            ending = [self._others[place] for place in places]
        for host in ending:
            ray.kill(host.actor, no_restart=True)
        self._others = [host for host in self._others if host not in ending]

    def hand_over(self) -> list[_Host]:
        """The hosts that hold no item, also those that still start the job; from now on they belong to the caller."""
        done = [worker for worker in self._hosts if self._scheduler.knows(worker)]
        for worker in done:
            del self._actors[worker]
        kept = [*(self._hosts.pop(worker) for worker in done), *self._idle, *self._others]
        self._idle, self._others = [], []
        return kept

    def let_save(self) -> None:
        """Tell the workers of this machine to end, and wait until they have: a training writes a last checkpoint."""
        working = [ref for ref, call in self._calls.items() if call.method == "run"]
        for call in [self._calls[ref] for ref in working]:
            with contextlib.suppress(OSError):  # it has ended by itself
                os.kill(self._hosts[call.worker].place.pid, signal.SIGTERM)
        if working:
            ray.wait(working, num_returns=len(working), timeout=SAVE_S)

    def dismiss(self) -> None:
        """Kill every actor that was not handed over: otherwise it would keep its CPUs and GPUs."""
        for worker in list(self._actors):
            self._kill(worker)
        for host in (*self._idle, *self._others):
            ray.kill(host.actor, no_restart=True)

    def _execute(self, command: SchedulerCommand) -> None:
        match command:
            case Spawn(worker) if self._idle:
                self._hosts[worker] = self._idle.pop(0)
                self._actors[worker] = self._hosts[worker].actor
                self._used.add(worker)
                self._scheduler.placed(worker, time.monotonic())
                self._call(_Call(worker, "start_job"), self._job)
            case Spawn(worker):
                self._actors[worker] = self._actor.remote()
                self._call(_Call(worker, "set_up"), self._resources.hide_gpus, self._probe)
            case Send(worker, item):
                self._call(_Call(worker, "run", item), item)
            case Kill(worker, why):
                if why:
                    log.warning("%s: worker %d is replaced: %s", self._job.name, worker, why)
                self._kill(worker)

    def _call(self, call: _Call, *arguments: Any) -> None:
        self._calls[getattr(self._actors[call.worker], call.method).remote(*arguments)] = call

    def _kill(self, worker: int) -> None:
        ray.kill(self._actors.pop(worker), no_restart=True)
        self._hosts.pop(worker, None)
        for reference in [ref for ref, call in self._calls.items() if call.worker == worker]:
            del self._calls[reference]

    def _answered(self) -> list[tuple[_Call, Any]]:
        """The calls answered since the last time, in the order in which they were made, each with its answer."""
        references = list(self._calls)
        if not references:
            time.sleep(TICK_S)
            return []
        ray.wait(references, num_returns=1, timeout=TICK_S)  # until the first answer
        ended = set(ray.wait(references, num_returns=len(references), timeout=0)[0])  # all answers
        return [(self._calls.pop(ref), _answer(ref)) for ref in references if ref in ended]

    def _report(self, call: _Call, answer: Any, now_s: float) -> None:
        scheduler, worker = self._scheduler, call.worker
        if not scheduler.knows(worker):  # an earlier answer of this step has ended it
            return
        if isinstance(answer, RayError):
            taken = isinstance(answer, RayActorError) and answer.preempted
            died_idle = call.method == "start_job" and worker in self._used
            scheduler.lost(worker, _short_message(answer), now_s, charge=not (taken or died_idle))
        elif isinstance(answer, Fault):
            log.warning("%s: %s\n%s", self._job.name, answer.error, answer.trace)
            if call.method == "run":
                scheduler.faulted(worker, answer, now_s)
            else:
                scheduler.start_failed(worker, answer, now_s)
        elif call.method == "set_up":
            self._hosts[worker] = _Host(self._actors[worker], self._resources, answer)
            scheduler.placed(worker, now_s)
            self._call(_Call(worker, "start_job"), self._job)
        elif call.method == "start_job":
            scheduler.ready(worker, now_s)
        else:
            scheduler.finished(worker, answer, now_s)
            self._on_done(call.item, answer)


def _answer(reference: Any) -> Any:
    """The result of a call, a Fault, or the RayError with which its worker was lost."""
    try:
        return ray.get(reference)
    except RayTaskError as error:  # the worker lives: it could not unpickle the job, or not pickle the record
        cause = error.cause if isinstance(error.cause, Exception) else error
        return Fault("retry", in_one_line(cause), str(cause), str(error))
    except RayError as error:
        return error


def _short_message(error: RayError) -> str:
    """The type and the last line of Ray's long explanation, which stands in full in the log."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    return f"{type(error).__name__}: {lines[-1].split(' Some common causes include')[0]}"


# --- resources --------------------------------------------------------------------------------------


def workers_that_fit(resources: WorkerResources) -> int:
    """How many workers fit on the nodes of now, whatever else runs on them."""
    return sum(resources.workers_on(node.resources) for node in alive_nodes())


def _cluster_resources() -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return {name: float(found.get(name, 0.0)) for name in ("CPU", "GPU")}


def _no_place_message(name: str, resources: WorkerResources, pending: int, patience_s: float) -> str:
    total, free = _cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    return (
        f"{name}: no worker got a place within {patience_s:g} s. {with_noun(pending, 'worker')} waiting for "
        f"{resources} each; the cluster has {with_noun(len(alive_nodes()), 'node')} with "
        f"{with_noun(total['CPU'], 'CPU')} and {with_noun(total['GPU'], 'GPU')}, of which {free.get('CPU', 0.0):g} "
        f"and {free.get('GPU', 0.0):g} are free. Add nodes, wait for other jobs, or lower "
        "engine.cpus_per_worker or engine.gpus_per_worker; the same command goes on where it stopped"
    )
