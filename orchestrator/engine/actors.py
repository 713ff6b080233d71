"""Carries out what a scheduler decides with the actors of Ray, and tells it what became of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cellsemi.configs.errors import in_one_line
from cellsemi.orchestrator.engine.cluster_state import Whereabouts, node_is_gone, nodes_that_fit
from cellsemi.orchestrator.engine.fault import Fault
from cellsemi.orchestrator.engine.job_actor import JobActor, Place, terminate
from cellsemi.orchestrator.engine.node_check import NodeCheck
from cellsemi.orchestrator.engine.protocol import Job, OnDone, ShowsProgress
from cellsemi.orchestrator.engine.ray_start import alive_nodes, node_name
from cellsemi.orchestrator.engine.resources import WorkerResources, in_the_way
from cellsemi.orchestrator.engine.scheduler import Scheduler
from cellsemi.orchestrator.engine.scheduling_rules import Ban, Kill, Memory, SchedulerCommand, Send, Spawn
from cellsemi.orchestrator.engine.usage import Held
from cellsemi.rounds.storage import object_store

log = logging.getLogger(__name__)

TICK_S = 0.2
GIVE_WAY_S = 10.0  # without a place for this long, because of the work of others: all idle actors end
LOOK_AFTER_S = 2.0  # on a cluster, between the end of an actor and the look whether its node is gone with it


@dataclass(frozen=True, slots=True)
class Host:
    """A process that is set up, which stands between two jobs: what it reserves, and where it runs."""

    actor: Any
    resources: WorkerResources
    place: Place

    @property
    def held(self) -> Held:
        """What it holds, for the meter."""
        return Held(self.place.name, self.resources.gpus)


@dataclass(frozen=True, slots=True)
class WorkerKind:
    """What workers of a job reserve, and what is asked of their nodes. `shared`: on machines that may come and go."""

    resources: WorkerResources
    check: NodeCheck
    shared: bool


@dataclass(frozen=True, slots=True)
class _Call:
    """A call of an actor's method that has not been answered."""

    worker: int
    method: Literal["set_up", "start_job", "run"]
    item: int = -1  # of a `run`


class Actors:
    """The actors of one scheduler and the calls that have not been answered, oldest first.

    `idle` hosts of earlier jobs that can do the work are used before new ones are asked for. The others stand by, and
    end where they hold what the new ones need.
    """

    def __init__(
        self, job: Job, scheduler: Scheduler, kind: WorkerKind, on_done: OnDone, *, idle: Sequence[Host]
    ) -> None:
        self._job, self._scheduler, self._kind, self._on_done = job, scheduler, kind, on_done
        self._avoided = [node.id for node in alive_nodes() if node_name(node.address, node.id) in scheduler.banned]
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, _Call] = {}
        self._hosts: dict[int, Host] = {}  # of the workers that are set up
        self._fallen: dict[int, tuple[float, _Call, RayError]] = {}  # when to look at what became of the node
        self._marks: dict[int, object | None] = {}  # the last sign of progress of each worker
        able = [host for host in idle if host.resources.serves(kind.resources) and not scheduler.rules.fresh]
        self._idle = sorted(able, key=lambda host: host.resources != kind.resources)  # its own crew first
        self._others = [host for host in idle if host not in able]
        self._used: set[int] = set()  # workers on an actor of an earlier job

    def step(self, now_s: float) -> None:
        """Carry out the commands of the scheduler, wait a moment for answers, and report them to it."""
        for command in self._scheduler.decide(now_s):
            self._execute(command)
        for call, answer in self._answered():
            self._report(call, answer, time.monotonic())
        for worker, (due_s, call, error) in list(self._fallen.items()):
            if time.monotonic() >= due_s:
                del self._fallen[worker]
                self._lose(call, error, time.monotonic())

    def make_room(self, now_s: float) -> None:
        """End hosts that stand by where workers wait for what they hold; all, when no worker gets a place for long."""
        ending = self._others
        if self._scheduler.waited_s(now_s) < GIVE_WAY_S:
            nodes = {node.id: node.resources for node in alive_nodes() if node.id not in self._avoided}
            busy = [(host.place.node, host.resources) for host in (*self._hosts.values(), *self._idle)]
            held = [(host.place.node, host.resources) for host in self._others]
            places = in_the_way(nodes, busy, held, self._kind.resources, self._scheduler.pending)
            ending = [self._others[place] for place in places]
        for host in ending:
            ray.kill(host.actor, no_restart=True)
        self._others = [host for host in self._others if host not in ending]

    def look_for_places(self, now_s: float) -> None:
        """Tell which workers have a process that has not said anything yet: it may be frozen."""
        silent = [call.worker for call in self._calls.values() if call.method == "set_up"]
        if silent:
            found = Whereabouts()
            for worker in silent:
                if (node := found.of(self._actors[worker])) is not None:
                    self._scheduler.placed(worker, now_s, node)

    def look_at_progress(self, now_s: float) -> None:
        """Tell which workers have got on with their items, where the job shows it."""
        if isinstance(self._job, ShowsProgress):
            for call in self._calls.values():
                if call.method == "run" and (mark := self._job.progress(call.item)) != self._marks.get(call.worker):
                    self._marks[call.worker] = mark
                    self._scheduler.progressed(call.worker, now_s)

    @property
    def held(self) -> list[Held]:
        """All processes that are held, also those that stand by."""
        known = [host for worker, host in self._hosts.items() if self._scheduler.knows(worker)]
        return [host.held for host in (*known, *self._idle, *self._others)]

    def hand_over(self) -> list[Host]:
        """The hosts that hold no item, also those that still start the job; from now on they belong to the caller."""
        done = [worker for worker in self._hosts if self._scheduler.knows(worker) and worker not in self._fallen]
        for worker in done:
            del self._actors[worker]
        kept = [*(self._hosts.pop(worker) for worker in done), *self._idle, *self._others]
        self._idle, self._others = [], []
        return kept

    def let_save(self, seconds: float) -> None:
        """Tell workers to end, and wait at most so long until they have: a training writes a last checkpoint.

        On a cluster each node is asked to tell its own.
        """
        working = [ref for ref, call in self._calls.items() if call.method == "run"]
        for ref in working if seconds > 0 else ():
            place = self._hosts[self._calls[ref].worker].place
            if not self._kind.shared:
                terminate(place.pid)
            else:
                only_there = NodeAffinitySchedulingStrategy(place.node, soft=False)
                there = ray.remote(terminate).options(num_cpus=0, max_retries=0, scheduling_strategy=only_there)
                there.remote(place.pid)
        if working and seconds > 0:
            ray.wait(working, num_returns=len(working), timeout=seconds)

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
                self._scheduler.placed(worker, time.monotonic(), self._hosts[worker].place.name)
                self._call(_Call(worker, "start_job"), self._job)
            case Spawn(worker):
                self._actors[worker] = self._new_actor()
                self._call(_Call(worker, "set_up"), self._kind.resources.hide_gpus, self._kind.check)
            case Send(worker, item, halvings):
                if isinstance(self._job, ShowsProgress):
                    self._marks[worker] = self._job.progress(item)  # what an earlier attempt has left
                self._call(_Call(worker, "run", item), item, halvings)
            case Kill(worker, why):
                if why:
                    log.warning("%s: worker %d is replaced: %s", self._job.name, worker, why)
                self._kill(worker)
            case Ban(node):
                self._avoid(node)

    def _new_actor(self) -> Any:
        """An actor on any node that is not banned. Our scheduler retries; Ray's retries would hide what happened."""
        options: dict[str, Any] = {"num_cpus": self._kind.resources.cpus, "num_gpus": self._kind.resources.gpus}
        if self._avoided:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self._avoided)})"}
        return ray.remote(JobActor).options(max_restarts=0, max_task_retries=0, **options).remote()

    def _avoid(self, banned: str) -> None:
        """Ask anew for the actors without a place: theirs might be on this node. End those that stand by there."""
        self._avoided += [node.id for node in alive_nodes() if node_name(node.address, node.id) == banned]
        for host in [host for host in (*self._idle, *self._others) if host.place.name == banned]:
            ray.kill(host.actor, no_restart=True)
        self._idle = [host for host in self._idle if host.place.name != banned]
        self._others = [host for host in self._others if host.place.name != banned]
        found = Whereabouts()
        for worker in [call.worker for call in self._calls.values() if call.method == "set_up"]:
            if found.of(self._actors[worker]) is None:
                self._kill(worker)
                self._execute(Spawn(worker))
        self._scheduler.nodes = set(nodes_that_fit(self._kind.resources))

    def _call(self, call: _Call, *arguments: Any) -> None:
        self._calls[getattr(self._actors[call.worker], call.method).remote(*arguments)] = call

    def _kill(self, worker: int) -> None:
        ray.kill(self._actors.pop(worker), no_restart=True)
        self._hosts.pop(worker, None)
        self._fallen.pop(worker, None)
        for reference in [ref for ref, call in self._calls.items() if call.worker == worker]:
            del self._calls[reference]

    def _answered(self) -> list[tuple[_Call, Any]]:
        """The calls answered since the last time, each with its answer, those of a worker in the order of its work.

        Ray may show the answer to a later call of an actor before that to an earlier one, for a moment.
        """
        references = list(self._calls)
        if not references:
            time.sleep(TICK_S)
            return []
        ray.wait(references, num_returns=1, timeout=TICK_S)  # until the first answer
        ended = set(ray.wait(references, num_returns=len(references), timeout=0)[0])  # all answers
        found, unanswered = [], set[int]()
        for reference, call in list(self._calls.items()):
            if reference in ended and call.worker not in unanswered:
                found.append((self._calls.pop(reference), _answer(reference)))
            else:
                unanswered.add(call.worker)
        return found

    def _report(self, call: _Call, answer: Any, now_s: float) -> None:
        scheduler, worker = self._scheduler, call.worker
        if not scheduler.knows(worker):  # an earlier answer of this step has ended it
            return
        if isinstance(answer, RayError):
            wait_s = LOOK_AFTER_S if self._kind.shared else 0.0
            self._fallen.setdefault(worker, (now_s + wait_s, call, answer))
        elif isinstance(answer, Fault):
            log.warning("%s: %s\n%s", self._job.name, answer.error, answer.trace)
            if call.method == "run":
                scheduler.faulted(worker, answer, now_s)
            else:
                scheduler.start_failed(worker, answer, now_s)
        elif call.method == "set_up":
            place, fault = answer
            scheduler.placed(worker, now_s, place.name)
            if fault is not None:
                scheduler.start_failed(worker, fault, now_s)
                return
            self._hosts[worker] = Host(self._actors[worker], self._kind.resources, place)
            self._call(_Call(worker, "start_job"), self._job)
        elif call.method == "start_job":
            scheduler.ready(worker, now_s)
        else:
            object_store.others_wrote()
            scheduler.finished(worker, answer.record, now_s, answer.seconds)
            self._on_done(call.item, answer.record)

    def _lose(self, call: _Call, error: RayError, now_s: float) -> None:
        """Tell the scheduler that a worker has ended, and whether its node, its item or nobody is to blame."""
        scheduler, worker, message = self._scheduler, call.worker, _short_message(error)
        died = error if isinstance(error, RayActorError) else None
        if call.method == "set_up":  # it has not said where it was
            scheduler.placed(worker, now_s, Whereabouts().of(self._actors[worker]) or "")
            if died is not None and died.actor_init_failed:
                why = f"cellsemi does not work there: {message}"
                scheduler.start_failed(worker, Fault("node", message, why, str(error)), now_s)
                return
        host = self._hosts.get(worker)
        if died is not None and died.preempted:
            scheduler.lost(worker, message, now_s, kind="preempted")
        elif self._kind.shared and host is not None and node_is_gone(host.place.node):
            scheduler.lost(worker, f"its node is gone ({message})", now_s, charge=False)
        else:
            died_idle = call.method == "start_job" and worker in self._used
            scheduler.lost(worker, message, now_s, charge=not died_idle, memory=memory_after(error))


def _answer(reference: Any) -> Any:
    """The result of a call, a Fault, or the RayError with which its worker was lost."""
    try:
        return ray.get(reference)
    except RayTaskError as error:  # the worker lives: it could not unpickle the job, or not pickle the record
        cause = error.cause if isinstance(error.cause, Exception) else error
        return Fault("retry", in_one_line(cause), str(cause), str(error))
    except RayError as error:
        return error


def memory_after(error: RayError) -> Memory:
    """What the end of a worker says of its memory: when a node runs short Ray ends some, or the system, silently."""
    if isinstance(error, OutOfMemoryError):
        return "short"
    return "unknown" if isinstance(error, ActorDiedError) else "enough"


def _short_message(error: RayError) -> str:
    """The type and the line that says most of Ray's long explanation, which stands in full in the log."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    said = lines[0] if isinstance(error, OutOfMemoryError) else lines[-1].split(" Some common causes include")[0]
    return f"{type(error).__name__}: {said}"
