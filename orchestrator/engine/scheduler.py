"""Decides which worker gets which item, and when a worker is given up.

A state machine without Ray and without a clock. An engine reports what happened (`placed`, `ready`,
`finished`, `faulted`, `lost`) and carries out the commands that `decide` returns. The caller passes the time
in as a number, so a test can simulate a thousand workers and a day of failures within seconds, twice with
the same result.

Each rule prevents one way in which a scheduler can hang or lose work:

- A worker that has no place yet never holds an item: the number of workers follows the size of the cluster.
- A worker holds up to `depth` items, so that it never waits for the driver. Near the end it holds only one,
  so that no item waits behind another while a worker is idle.
- When a worker is lost, only the first of its items is charged an attempt; the others had not begun. From
  then on each of these items gets a worker to itself. Otherwise a worker that dies at once on its second
  item could die before it reports that the first is done, and the first would be charged again and again.
- A worker that is silent on one item for longer than the deadline counts as lost: nothing else notices a
  frozen machine.
- Starting fails for good after three failures in a row. An attempt counts only if it began after the failure
  before it, so all workers of a machine that dies count once. While other workers run, they continue alone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cellsemi.configs.errors import EngineError, RunError
from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.fault import Fault
from cellsemi.orchestrator.engine.protocol import Failure, Incident, IncidentKind, Outcome, Record
from cellsemi.orchestrator.engine.usage import Seconds

START_FAILURES = 3
START_DEADLINE_S = 600.0  # at least: a large model on slow storage takes minutes to load


@dataclass(frozen=True, slots=True)
class SchedulingRules:
    """How the scheduler treats its workers; times in seconds."""

    name: str  # of the job, for messages
    max_attempts: int
    start_deadline_s: float
    deadline_s: float | None  # for one item; None: no deadline
    depth: int = 2
    fresh: bool = False  # a new worker for every item
    saved_every_s: float | None = None  # an item that is lost costs at most this: it goes on from a checkpoint


@dataclass(frozen=True, slots=True)
class Spawn:
    """Ask for a new worker."""

    worker: int


@dataclass(frozen=True, slots=True)
class Send:
    """Give an item to a ready worker, behind the items that it holds."""

    worker: int
    item: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker; `why` is empty when its work is done."""

    worker: int
    why: str = ""


SchedulerCommand = Spawn | Send | Kill
Loss = Literal["lost", "frozen", "preempted"]


@dataclass(slots=True)
class _WorkerState:
    phase: Literal["pending", "starting", "ready"] = "pending"
    since_s: float = 0.0  # when it was placed, or when the first of its items began
    items: deque[int] = field(default_factory=deque)
    node: str = ""
    replaces: int | None = None  # the worker that was lost before it


def map_rules(config: EngineConfig, name: str) -> SchedulingRules:
    """Rules of `Engine.map`."""
    return SchedulingRules(name, config.max_attempts, _start_deadline_s(config), config.shard_deadline_s)


def task_rules(config: EngineConfig, name: str, fresh: bool) -> SchedulingRules:
    """Rules of `Engine.tasks`: training has no deadline; `fresh` with a new worker for every item."""
    limits_s = (_start_deadline_s(config), None)
    return SchedulingRules(
        name, config.max_attempts, *limits_s, depth=1, fresh=fresh, saved_every_s=config.checkpoint_s
    )


def _start_deadline_s(config: EngineConfig) -> float:
    return max(START_DEADLINE_S, config.shard_deadline_s)


class Scheduler:
    """The state of one `map` or `tasks`.

    `wanted` is how many workers there may be at once; the caller may change it at any time. Workers are
    numbered in the order in which they are asked for. The scheduler is `over` when every item is in `done` or
    in `failed`. It ignores events of workers that it no longer has.
    """

    def __init__(self, items: Sequence[int], rules: SchedulingRules, now_s: float, wanted: int = 1) -> None:
        if len(set(items)) != len(items):
            raise ValueError(f"{rules.name}: expected distinct items, got {len(items) - len(set(items))} twice")
        self.rules = rules
        self.wanted = wanted
        self.done: dict[int, Record] = {}
        self.failed: list[Failure] = []
        self._total = len(items)
        self._queue = deque(items)
        self._attempts: Counter[int] = Counter()
        self._isolated: set[int] = set()  # items that a lost worker held: each gets a worker to itself
        self._workers: dict[int, _WorkerState] = {}
        self._placed = 0  # workers that are not pending
        self._with_room: set[int] = set()  # ready workers that can take another item
        self._next = 0  # the number of the next worker
        self._start_failures = 0
        self._counted_from = 0  # workers with a smaller number were asked for before the last counted failure
        self._pending_kills: list[SchedulerCommand] = []
        self._incidents: list[Incident] = []
        self._spent = Seconds()  # but what is in progress
        self._vacant: deque[int] = deque()  # workers that were lost and have not been replaced
        self._changed_s = now_s
        self._checked_s = now_s

    # --- questions ---

    @property
    def over(self) -> bool:
        """Whether every item is done or has failed."""
        return len(self.done) + len(self.failed) == self._total

    @property
    def pending(self) -> int:
        """How many workers were asked for and have no place yet."""
        return len(self._workers) - self._placed

    @property
    def outcome(self) -> Outcome:
        """The items that are done and those that failed, each sorted by item."""
        return Outcome(dict(sorted(self.done.items())), tuple(sorted(self.failed, key=lambda f: f.item)))

    def knows(self, worker: int) -> bool:
        """Whether the scheduler still has this worker."""
        return worker in self._workers

    def spent(self, now_s: float) -> Seconds:
        """Seconds of all its workers by what they were busy with (see usage.Busy)."""
        starting = sum(now_s - state.since_s for state in self._workers.values() if state.phase == "starting")
        computing = sum(now_s - state.since_s for state in self._workers.values() if state.items)
        return self._spent.plus(Seconds(starting=starting, computing=computing))

    def take_incidents(self) -> list[Incident]:
        """What has gone wrong since the last time, oldest first."""
        taken, self._incidents = self._incidents, []
        return taken

    def waited_s(self, now_s: float) -> float:
        """How long nothing has happened because no worker has a place, in seconds; 0 when one has, or all is done."""
        return 0.0 if self._placed or self.over else now_s - self._changed_s

    # --- decisions ---

    def decide(self, now_s: float) -> list[SchedulerCommand]:
        """The commands to carry out now, in this order; raises EngineError when workers cannot start any more."""
        self._drop_silent(now_s)
        commands, self._pending_kills = self._pending_kills, []
        if not self.over:
            commands += self._assign(now_s)
            commands += self._spawn()
        return commands

    def _drop_silent(self, now_s: float) -> None:
        rules = self.rules
        shortest_s = min(rules.start_deadline_s, rules.deadline_s or rules.start_deadline_s)
        if now_s - self._checked_s < min(1.0, shortest_s / 4):
            return  # do not check a thousand workers after every result
        self._checked_s = now_s
        for worker, state in list(self._workers.items()):
            if state.phase == "pending" or (state.phase == "ready" and not state.items):
                continue
            limit_s = rules.start_deadline_s if state.phase == "starting" else rules.deadline_s
            if limit_s is not None and now_s - state.since_s > limit_s:
                doing = "start" if state.phase == "starting" else f"item {state.items[0]}"
                why = f"TimeoutError: silent on {doing} for more than {limit_s:g} s"
                self.lost(worker, why, now_s, kind="frozen")

    def _assign(self, now_s: float) -> list[SchedulerCommand]:
        commands: list[SchedulerCommand] = []
        for held in range(self.rules.depth):  # every worker gets a first item before any gets a second
            for worker in sorted(self._with_room):
                if not self._queue or (held and len(self._queue) <= self._placed):
                    return commands
                state = self._workers[worker]
                if len(state.items) != held or (held and self._isolated & {state.items[-1], self._queue[0]}):
                    continue
                if not held:
                    state.since_s = now_s
                state.items.append(self._queue.popleft())
                if len(state.items) == self.rules.depth:
                    self._with_room.discard(worker)
                commands.append(Send(worker, state.items[-1]))
            if not self._queue:
                break
        return commands

    def _spawn(self) -> list[SchedulerCommand]:
        commands: list[SchedulerCommand] = []
        if len(self._workers) >= self.wanted or (self._workers and self._start_failures >= START_FAILURES):
            return commands
        busy = sum(1 for state in self._workers.values() if state.items)
        while len(self._workers) < min(self.wanted, busy + len(self._queue)):
            self._workers[self._next] = _WorkerState(replaces=self._vacant.popleft() if self._vacant else None)
            commands.append(Spawn(self._next))
            self._next += 1
        return commands

    # --- events ---

    def placed(self, worker: int, now_s: float, node: str = "") -> None:
        """The worker has a process, on the node of this name, and may start the job."""
        state = self._workers.get(worker)
        if state is not None and state.phase == "pending":
            state.phase, state.since_s, state.node = "starting", now_s, node
            if state.replaces is not None:
                self._note("replaced", f"worker {worker} has taken the place of worker {state.replaces}", node)
            self._placed += 1
            self._changed_s = now_s

    def ready(self, worker: int, now_s: float) -> None:
        """The worker has started the job."""
        state = self._workers.get(worker)
        if state is not None and state.phase == "starting":
            state.phase = "ready"
            self._spent = self._spent.plus(Seconds(starting=now_s - state.since_s))
            self._with_room.add(worker)
            self._start_failures = 0
            self._changed_s = now_s

    def start_failed(self, worker: int, fault: Fault, now_s: float) -> None:
        """`start` raised an error: the worker cannot be used. Raises when that ends the run."""
        if worker not in self._workers:
            return
        if fault.kind == "stop":
            raise RunError(fault.message)
        if fault.kind == "final":
            raise EngineError(f"{self.rules.name}: a worker could not start: {fault.message}")
        self._note("lost", f"worker {worker} could not start: {fault.error}", self._workers[worker].node)
        self._vacant.append(worker)
        self._lose(now_s - self._since_s(worker, now_s), saved=False)
        self._remove(worker, now_s, why=fault.error)
        self._count_start_failure(worker, fault.error)

    def finished(self, worker: int, record: Record, now_s: float, took_s: float | None = None) -> None:
        """The worker finished the first of its items; `took_s` as it measured it, else from the news before this."""
        since_s = self._since_s(worker, now_s)
        item = self._pop(worker, now_s)
        if item is not None:
            self.done[item] = record
            self._spent = self._spent.plus(Seconds(computing=now_s - since_s if took_s is None else took_s))

    def faulted(self, worker: int, fault: Fault, now_s: float) -> None:
        """The first item of the worker raised an error; the worker goes on. RunError when that ends the run."""
        node = self._workers[worker].node if worker in self._workers else ""
        since_s = self._since_s(worker, now_s)
        item = self._pop(worker, now_s)
        if item is None:
            return
        self._lose(now_s - since_s)
        if fault.kind == "stop":
            raise RunError(fault.message)
        if self._charge(item, fault.error, node, final=fault.kind == "final"):
            self._queue.append(item)  # last in the queue: the cause may be gone by then

    def lost(self, worker: int, error: str, now_s: float, *, kind: Loss = "lost", charge: bool = True) -> None:
        """The worker is gone or silent: its items go to other workers, in the same order.

        `charge`: whether this counts as an attempt of the current item, or as a failed start; never where a machine
        was taken away on purpose ("preempted"). `error` is one line that begins with the type of the error.
        """
        state = self._workers.get(worker)
        if state is None:
            return
        charge = charge and kind != "preempted"
        waiting = list(state.items)
        doing = f" on item {waiting[0]}" if waiting else ""
        self._note(kind, f"worker {worker}{doing}: {error}", state.node, waiting[0] if waiting else None)
        self._vacant.append(worker)
        if waiting or state.phase == "starting":
            self._lose(now_s - state.since_s, saved=bool(waiting))
        self._remove(worker, now_s, why=error)
        if state.phase != "ready" and charge:
            self._count_start_failure(worker, error)
        self._isolated.update(waiting)
        charged = waiting[0] if waiting and charge else None
        if charged is not None and not self._charge(charged, error, state.node):
            waiting.pop(0)
        for item in waiting:
            if item != charged:
                self._note("requeued", f"item {item} goes to another worker", item=item)
        self._queue.extendleft(reversed(waiting))

    # --- bookkeeping ---

    def _since_s(self, worker: int, now_s: float) -> float:
        """Since when the worker has been busy with what it is busy with."""
        state = self._workers.get(worker)
        return now_s if state is None or state.phase == "pending" else state.since_s

    def _lose(self, seconds: float, saved: bool = True) -> None:
        """An attempt came to nothing; what was `saved` of it, by the rules, is no loss."""
        most = self.rules.saved_every_s if saved else None
        kept = 0.0 if most is None else max(0.0, seconds - most)
        self._spent = self._spent.plus(Seconds(computing=kept, lost=seconds - kept))

    def _pop(self, worker: int, now_s: float) -> int | None:
        state = self._workers.get(worker)
        if state is None or not state.items:
            return None
        item = state.items.popleft()
        state.since_s = self._changed_s = now_s
        if self.rules.fresh:
            self._remove(worker, now_s, why="")
        else:
            self._with_room.add(worker)
        return item

    def _remove(self, worker: int, now_s: float, why: str) -> None:
        state = self._workers.pop(worker)
        self._placed -= state.phase != "pending"
        self._with_room.discard(worker)
        self._pending_kills.append(Kill(worker, why))
        self._changed_s = now_s

    def _charge(self, item: int, error: str, node: str, final: bool = False) -> bool:
        """Count an attempt and return whether the item may be tried again; if not, it has failed."""
        self._attempts[item] += 1
        attempts, most = self._attempts[item], self.rules.max_attempts
        again = not final and attempts < most
        if again:
            self._note(
                "retried", f"item {item} is tried again, {attempts} of {most} attempts failed: {error}", node, item
            )
        else:
            self.failed.append(Failure(item, attempts, error))
            of = "1 attempt" if attempts == 1 else f"{attempts} attempts"
            self._note("quarantined", f"item {item} is given up after {of}: {error}", node, item)
        return again

    def _note(self, kind: IncidentKind, message: str, node: str = "", item: int | None = None) -> None:
        self._incidents.append(Incident(kind, message, node, item))

    def _count_start_failure(self, worker: int, error: str) -> None:
        if worker < self._counted_from:
            return
        self._counted_from = self._next
        self._start_failures += 1
        others = any(state.phase == "ready" for state in self._workers.values())
        if self._start_failures >= START_FAILURES and not others:
            raise EngineError(
                f"{self.rules.name}: workers failed to start {self._start_failures} times in a row; last: {error}"
            )
