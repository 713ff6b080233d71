"""The engine on Ray: long-lived actors, driven by the pool's decisions.

Ray only places processes and carries item numbers. What is retried and when a worker is given up is
decided by the pool: Ray's own retries pin work to workers that can never be placed again. What is done
is known from the files, never from Ray.

A worker is an actor also where one item is all that it does (`tasks`): a Ray task may be given a process
that another one has used, and there is no way to kill one that hangs.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cellsemi.configs.errors import EngineError
from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.fault import Fault, attempt, in_one_line
from cellsemi.orchestrator.engine.pool import Command, Kill, Pool, Rules, Send, Spawn, map_rules, task_rules
from cellsemi.orchestrator.engine.protocol import Job, OnDone, Outcome, Record, Tick, Worker
from cellsemi.orchestrator.engine.ray_start import SHARED_HELP, Probe, Session, alive_nodes, folder_problem
from cellsemi.orchestrator.engine.resources import Claim, claim_of, counted

log = logging.getLogger(__name__)

TICK_S = 0.2
RECOUNT_S = 5.0  # between two looks at the size of a cluster
PATIENCE_LOCAL_S = 120.0  # our own Ray has all its resources from the start
PATIENCE_CLUSTER_S = 900.0  # an autoscaler may have to buy a machine


class Host:
    """What a Ray actor runs: one worker of one job.

    Nothing heavy is imported and no job unpacked before `hello` has set the process up.
    """

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def hello(self, hide_gpus: bool, probe: Probe | None) -> str | Fault:
        """Set up the process; the id of its node, or why it cannot work there."""
        if hide_gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # Ray sets OMP_NUM_THREADS to the CPUs reserved; what reads only its own variable follows it.
        for name in ("MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
            os.environ.setdefault(name, os.environ.get("OMP_NUM_THREADS", "1"))
        node = ray.get_runtime_context().get_node_id()
        problem = folder_problem(probe) if probe is not None else ""
        if problem:
            return Fault("final", f"EngineError: {problem}", f"node {node[:8]}: {problem}. {SHARED_HELP}")
        return str(node)

    def begin(self, job: Job) -> Fault | None:
        """Start the job."""
        self._worker = None  # of an earlier job: its memory first
        started = attempt(job.start)
        if isinstance(started, Fault):
            return started
        self._worker = started
        return None

    def run(self, item: int) -> Record | Fault:
        """Do one item."""
        worker = self._worker
        assert worker is not None
        return attempt(lambda: worker.run(item))


class RayEngine:
    """Engine on a Ray that `start_ray` has started or joined."""

    def __init__(self, config: EngineConfig, session: Session) -> None:
        self._config = config
        self._session: Session | None = session
        self._address = session.address
        self._version = session.version
        self._probe = session.probe
        self._idle: list[Any] = []  # hosts of the last map: the next one of its claim saves their start-up
        self._idle_claim: Claim | None = None

    def map(self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick) -> Outcome:
        """See Engine.map. `engine.workers` null: as many as the cluster has ever had room for."""
        return self._carry_out(job, items, map_rules(self._config, job.name), on_done, tick)

    def tasks(self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick) -> Outcome:
        """See Engine.tasks."""
        return self._carry_out(job, items, task_rules(self._config, job.name), on_done, tick)

    def describe(self) -> str:
        """One line, with a hint where GPUs would lie idle."""
        config, total = self._config, _resources()
        counts = [counted(total["CPU"], "CPU")] + ([counted(total["GPU"], "GPU")] if total["GPU"] else [])
        if self._address is None:
            line = f"local Ray {self._version}, {', '.join(counts)}"
        else:
            counts = [counted(len(alive_nodes()), "node"), *counts]
            line = f"Ray {self._version} cluster at {self._address}: {', '.join(counts)}"
        if total["GPU"] and not claim_of(config, True, total["GPU"]).gpus:
            line += "; no GPU is reserved, since engine.gpus_per_worker is 0 or engine.device is cpu"
        return line

    def close(self) -> None:
        """See Engine.close."""
        session, self._session = self._session, None
        self._idle = []
        if session is not None:
            session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _carry_out(self, job: Job, items: Sequence[int], rules: Rules, on_done: OnDone, tick: Tick) -> Outcome:
        pool = Pool(items, rules, time.monotonic())
        claim = claim_of(self._config, job.uses_device, _resources()["GPU"])
        self._check_room(claim)
        patience_s = PATIENCE_LOCAL_S if self._address is None else PATIENCE_CLUSTER_S
        idle, self._idle = self._idle, []
        fit = not rules.fresh and claim == self._idle_claim
        crew = _Crew(job, pool, claim, self._probe, on_done, idle=idle, use_idle=fit)
        counted_s = ticked_s = -float("inf")
        try:
            while not pool.over:
                now_s = time.monotonic()
                if now_s - counted_s >= RECOUNT_S:
                    counted_s = now_s
                    pool.wanted = max(pool.wanted, self._config.workers or room(claim))
                if pool.waited_s(now_s) > patience_s:
                    raise EngineError(_no_place(job.name, claim, pool.pending, patience_s))
                crew.step(now_s)
                if time.monotonic() - ticked_s >= TICK_S:
                    tick()
                    ticked_s = time.monotonic()
            self._idle, self._idle_claim = crew.hand_over(), claim
        finally:
            crew.dismiss()
        return pool.outcome

    def _check_room(self, claim: Claim) -> None:
        """On our own Ray, which does not grow, a worker that is too large never gets a place."""
        if self._address is None and room(claim) == 0:
            total = _resources()
            raise EngineError(
                f"a worker asks for {claim}, this machine has {counted(total['CPU'], 'CPU')} "
                f"and {counted(total['GPU'], 'GPU')}; lower engine.cpus_per_worker or engine.gpus_per_worker"
            )


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that is under way."""

    worker: int
    stage: Literal["hello", "begin", "run"]
    item: int = -1  # of a `run`


class _Crew:
    """The actors of one pool and the calls under way, oldest first.

    `idle` hosts of an earlier pool are used before new ones are asked for, unless they do not fit or every
    item needs a fresh process: then they are killed, since they hold what the new ones need.
    """

    def __init__(
        self,
        job: Job,
        pool: Pool,
        claim: Claim,
        probe: Probe | None,
        on_done: OnDone,
        *,
        idle: Sequence[Any],
        use_idle: bool,
    ) -> None:
        self._job, self._pool, self._probe, self._on_done = job, pool, probe, on_done
        self._hide_gpus = claim.hide_gpus
        # Retries are the pool's business; Ray's would hide from it what happened.
        self._actor = ray.remote(Host).options(
            num_cpus=claim.cpus,
            num_gpus=claim.gpus,
            max_restarts=0,
            max_task_retries=0,
        )
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, _Call] = {}
        self._idle = list(idle) if use_idle else []
        self._used: set[int] = set()  # workers on a host of an earlier pool
        if not use_idle:
            for actor in idle:
                ray.kill(actor, no_restart=True)

    def step(self, now_s: float) -> None:
        """Carry out what the pool decides, wait a moment for news, and tell it the news."""
        for command in self._pool.decide(now_s):
            self._obey(command)
        for call, answer in self._news():
            self._tell(call, answer, time.monotonic())

    def hand_over(self) -> list[Any]:
        """The hosts that are well and have nothing to do; they are the caller's from now on."""
        kept = [self._actors.pop(worker) for worker in self._pool.idle if worker in self._actors]
        kept, self._idle = kept + self._idle, []
        return kept

    def dismiss(self) -> None:
        """Kill every actor that was not handed over: one left behind would hold its CPUs and GPUs."""
        for worker in list(self._actors):
            self._kill(worker)
        for actor in self._idle:
            ray.kill(actor, no_restart=True)

    def _obey(self, command: Command) -> None:
        match command:
            case Spawn(worker) if self._idle:
                self._actors[worker] = self._idle.pop(0)
                self._used.add(worker)
                self._pool.placed(worker, time.monotonic())
                self._call(_Call(worker, "begin"), self._job)
            case Spawn(worker):
                self._actors[worker] = self._actor.remote()
                self._call(_Call(worker, "hello"), self._hide_gpus, self._probe)
            case Send(worker, item):
                self._call(_Call(worker, "run", item), item)
            case Kill(worker, why):
                if why:
                    log.warning("%s: worker %d is replaced: %s", self._job.name, worker, why)
                self._kill(worker)

    def _call(self, call: _Call, *arguments: Any) -> None:
        self._calls[getattr(self._actors[call.worker], call.stage).remote(*arguments)] = call

    def _kill(self, worker: int) -> None:
        ray.kill(self._actors.pop(worker), no_restart=True)
        for reference in [ref for ref, call in self._calls.items() if call.worker == worker]:
            del self._calls[reference]

    def _news(self) -> list[tuple[_Call, Any]]:
        """Calls that have ended since the last look, in the order they were made, and what came of each."""
        references = list(self._calls)
        if not references:
            time.sleep(TICK_S)
            return []
        ray.wait(references, num_returns=1, timeout=TICK_S)  # wakes up at the first news
        ended = set(ray.wait(references, num_returns=len(references), timeout=0)[0])  # takes all there is
        return [(self._calls.pop(ref), _answer(ref)) for ref in references if ref in ended]

    def _tell(self, call: _Call, answer: Any, now_s: float) -> None:
        pool, worker = self._pool, call.worker
        if not pool.knows(worker):  # an earlier answer of the same moment has ended it
            return
        if isinstance(answer, RayError):
            taken = isinstance(answer, RayActorError) and answer.preempted
            died_idle = call.stage == "begin" and worker in self._used
            pool.lost(worker, _words(answer), now_s, charge=not (taken or died_idle))
        elif isinstance(answer, Fault):
            log.warning("%s: %s\n%s", self._job.name, answer.error, answer.trace)
            if call.stage == "run":
                pool.faulted(worker, answer, now_s)
            else:
                pool.start_failed(worker, answer, now_s)
        elif call.stage == "hello":
            pool.placed(worker, now_s)
            self._call(_Call(worker, "begin"), self._job)
        elif call.stage == "begin":
            pool.ready(worker, now_s)
        else:
            pool.finished(worker, answer, now_s)
            self._on_done(call.item, answer)


def _answer(reference: Any) -> Any:
    """What a call returned, a Fault, or the RayError with which its worker was lost."""
    try:
        return ray.get(reference)
    except RayTaskError as error:  # the worker is well: it could not read the job, or not send the record
        cause = error.cause if isinstance(error.cause, Exception) else error
        return Fault("retry", in_one_line(cause), str(cause), str(error))
    except RayError as error:
        return error


def _words(error: RayError) -> str:
    """The type and what is particular in Ray's long explanations, which its log holds in full."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    return f"{type(error).__name__}: {lines[-1].split(' Some common causes include')[0]}"


# --- resources --------------------------------------------------------------------------------------


def room(claim: Claim) -> int:
    """How many workers fit on the nodes that are there, whatever else runs on them."""
    return sum(claim.fits(node["Resources"]) for node in alive_nodes())


def _resources() -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return {name: float(found.get(name, 0.0)) for name in ("CPU", "GPU")}


def _no_place(name: str, claim: Claim, pending: int, patience_s: float) -> str:
    total, free = _resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    return (
        f"{name}: no worker got a place within {patience_s:g} s. {counted(pending, 'worker')} waiting for "
        f"{claim} each; the cluster has {counted(len(alive_nodes()), 'node')} with "
        f"{counted(total['CPU'], 'CPU')} and {counted(total['GPU'], 'GPU')}, of which {free.get('CPU', 0.0):g} "
        f"and {free.get('GPU', 0.0):g} are free. Add nodes, wait for other jobs, or lower "
        "engine.cpus_per_worker or engine.gpus_per_worker; the same command goes on where it stopped"
    )
