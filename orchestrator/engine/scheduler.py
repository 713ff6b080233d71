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
  frozen machine. Of a job that shows progress each sign of it counts, so that training has no deadline as a whole.
- A node that cannot do the work is banned: at once where it says so, or where `start` fails for a reason that will not
  pass; else when workers have failed to start there three times in a row. It ends when no node is left. Where the node
  is not known, three failures in a row are the end, unless other workers run: they continue alone.
- Workers without a place are as many as the work is worth, and fewer when it gets less: an autoscaler sees them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cellsemi.configs.errors import EngineError, RunError
from cellsemi.orchestrator.engine.attempts import Attempts, StartFailures, none_left
from cellsemi.orchestrator.engine.fault import Fault
from cellsemi.orchestrator.engine.protocol import Failure, Incident, IncidentKind, Outcome, Record
from cellsemi.orchestrator.engine.scheduling_rules import (
    PENDING_MOST,
    SAY_AGAIN_S,
    Ban,
    Kill,
    Loss,
    Memory,
    SchedulerCommand,
    SchedulingRules,
    Send,
    Spawn,
)
from cellsemi.orchestrator.engine.usage import Seconds, Spent


@dataclass(slots=True)
class _WorkerState:
    phase: Literal["pending", "starting", "ready"] = "pending"
    since_s: float = 0.0  # when it was placed, or when the first of its items began or last got on
    busy_s: float = 0.0  # the same, whatever progress it shows
    items: deque[int] = field(default_factory=deque)
    node: str = ""
    replaces: int | None = None  # the worker that was lost before it
    moving: bool = False  # the first of its items has shown progress


class Scheduler:
    """The state of one `map` or `tasks`.

    `wanted` is how many workers there may be at once, and `nodes` names those that can hold one, None where they are
    not known; the caller may change both at any time. Workers are numbered in the order in which they are asked for.
    The scheduler is `over` when every item is in `done` or in `failed`. It ignores events of workers that it no longer
    has. `banned`: nodes that earlier work has banned, each with the reason.
    """

    def __init__(
        self,
        items: Sequence[int],
        rules: SchedulingRules,
        now_s: float,
        wanted: int = 1,
        banned: Mapping[str, str] | None = None,
    ) -> None:
        if len(set(items)) != len(items):
            raise ValueError(f"{rules.name}: expected distinct items, got {len(items) - len(set(items))} twice")
        self.rules = rules
        self.wanted = wanted
        self.nodes: Collection[str] | None = None
        self.banned = dict(banned or {})
        self.banned_for_the_run: dict[str, str] = {}  # those of them whose reason will not pass with this work
        self.done: dict[int, Record] = {}
        self._attempts = Attempts(rules.max_attempts)
        self._total = len(items)
        self._queue = deque(items)
        self._isolated: set[int] = set()  # items that a lost worker held: each gets a worker to itself
        self._workers: dict[int, _WorkerState] = {}
        self._placed = 0  # workers that are not pending
        self._with_room: set[int] = set()  # ready workers that can take another item
        self._next = 0  # the number of the next worker
        self._start_failures = StartFailures()
        self._pending_kills: list[SchedulerCommand] = []
        self._said_s = -float("inf")  # when it was last said that nothing goes on
        self._incidents: list[Incident] = []
        self._spent = Spent(rules.saved_every_s)
        self._vacant: deque[int] = deque()  # workers that were lost and have not been replaced
        self._changed_s = now_s
        self._checked_s = now_s

    # --- questions ---

    @property
    def failed(self) -> list[Failure]:
        """The items that were given up."""
        return self._attempts.failed

    @property
    def over(self) -> bool:
        """Whether every item is done or has failed."""
        return len(self.done) + len(self.failed) == self._total

    @property
    def pending(self) -> int:
        """How many workers were asked for and have no place yet."""
        return len(self._workers) - self._placed

    @property
    def worth(self) -> int:
        """How many workers the work that is left is worth, if each has to be given a machine first."""
        left = self._total - len(self.done) - len(self.failed)
        return min(-(-left // self.rules.items_per_machine), self._placed + PENDING_MOST)

    @property
    def outcome(self) -> Outcome:
        """The items that are done and those that failed, each sorted by item."""
        return Outcome(dict(sorted(self.done.items())), tuple(sorted(self.failed, key=lambda f: f.item)))

    def knows(self, worker: int) -> bool:
        """Whether the scheduler still has this worker."""
        return worker in self._workers

    def spent(self, now_s: float) -> Seconds:
        """Seconds of all its workers by what they were busy with (see usage.Busy)."""
        starting = sum(now_s - state.busy_s for state in self._workers.values() if state.phase == "starting")
        computing = sum(now_s - state.busy_s for state in self._workers.values() if state.items)
        return self._spent.total.plus(Seconds(starting=starting, computing=computing))

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
        if not any(isinstance(command, Ban) for command in self._pending_kills):  # else look at the nodes of now first
            self._check_a_node_is_left()
        self._trim(now_s)
        commands, self._pending_kills = self._pending_kills, []
        if not self.over:
            commands += self._assign(now_s)
            commands += self._spawn()
        return commands

    def _check_a_node_is_left(self) -> None:
        if self.nodes and not self._placed and not self.over and self.banned.keys() >= set(self.nodes):
            raise EngineError(f"{self.rules.name}: {none_left(self.banned, self.nodes)}")

    def _trim(self, now_s: float) -> None:
        """End the newest workers without a place that are too many for the work that is left."""
        busy = sum(1 for state in self._workers.values() if state.items)
        surplus = len(self._workers) - min(self.wanted, busy + len(self._queue))
        if surplus > 0 and self.pending:
            for worker in [w for w, state in self._workers.items() if state.phase == "pending"][-surplus:]:
                self._remove(worker, now_s, why="")

    def _drop_silent(self, now_s: float) -> None:
        rules = self.rules
        shortest_s = min(rules.start_deadline_s, rules.deadline_s or rules.start_deadline_s)
        if now_s - self._checked_s < min(1.0, shortest_s / 4):
            return  # do not check a thousand workers after every result
        self._checked_s = now_s
        for worker, state in list(self._workers.items()):
            if state.phase == "pending" or (state.phase == "ready" and not state.items):
                continue
            limit_s = rules.deadline_s
            if state.phase == "starting":
                limit_s = rules.start_deadline_s
            elif rules.first_sign_s is not None and not state.moving:
                limit_s = rules.first_sign_s
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
                    state.since_s = state.busy_s = now_s
                state.items.append(self._queue.popleft())
                if len(state.items) == self.rules.depth:
                    self._with_room.discard(worker)
                commands.append(Send(worker, state.items[-1], self._attempts.halvings(state.items[-1])))
            if not self._queue:
                break
        return commands

    def _spawn(self) -> list[SchedulerCommand]:
        commands: list[SchedulerCommand] = []
        if len(self._workers) >= self.wanted or (self._workers and self._start_failures.too_many("")):
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
            state.phase, state.node = "starting", node
            state.since_s = state.busy_s = now_s
            if state.replaces is not None:
                self._note("replaced", f"worker {worker} has taken the place of worker {state.replaces}", node)
            self._placed += 1
            self._changed_s = now_s
            self._said_s = -float("inf")

    def ready(self, worker: int, now_s: float) -> None:
        """The worker has started the job."""
        state = self._workers.get(worker)
        if state is not None and state.phase == "starting":
            state.phase = "ready"
            self._spent.started(now_s - state.busy_s)
            self._with_room.add(worker)
            self._start_failures.started(state.node)
            self._changed_s = now_s

    def progressed(self, worker: int, now_s: float) -> None:
        """The first item of the worker has shown that it gets on."""
        state = self._workers.get(worker)
        if state is not None and state.items:
            state.since_s, state.moving = now_s, True

    def waiting(self, why: str, now_s: float) -> None:
        """Nothing goes on as long as the cluster lacks something: this is said at once, then every SAY_AGAIN_S."""
        if now_s - self._said_s >= SAY_AGAIN_S:
            self._said_s = now_s
            self._note("waiting", why)

    def start_failed(self, worker: int, fault: Fault, now_s: float) -> None:
        """`start` raised an error: the worker cannot be used. Raises when that ends the run."""
        if worker not in self._workers:
            return
        if fault.kind == "stop":
            raise RunError(fault.message)
        node = self._workers[worker].node
        if not node and fault.kind in ("final", "node"):
            raise EngineError(f"{self.rules.name}: a worker could not start: {fault.message}")
        self._note("lost", f"worker {worker} could not start: {fault.error}", node)
        self._vacant.append(worker)
        self._spent.lost(now_s - self._busy_s(worker, now_s), saved=False)
        self._remove(worker, now_s, why=fault.error)
        match fault.kind:
            case "final":
                self._ban(node, f"a worker could not start: {fault.message}", for_the_run=True)
            case "node":
                self._ban_with_all(node, fault.message, now_s)
            case _:
                self._count_start_failure(worker, node, fault.error)

    def finished(self, worker: int, record: Record, now_s: float, took_s: float | None = None) -> None:
        """The worker finished the first of its items; `took_s` as it measured it, else from the news before this."""
        busy_s = self._busy_s(worker, now_s)
        item = self._pop(worker, now_s)
        if item is not None:
            self.done[item] = record
            self._spent.computed(now_s - busy_s if took_s is None else took_s)

    def faulted(self, worker: int, fault: Fault, now_s: float) -> None:
        """The first item of the worker raised an error; the worker goes on. RunError when that ends the run."""
        node = self._workers[worker].node if worker in self._workers else ""
        if fault.kind == "node" and node:
            self._ban_with_all(node, fault.message, now_s)
            return
        busy_s = self._busy_s(worker, now_s)
        item = self._pop(worker, now_s)
        if item is None:
            return
        self._spent.lost(now_s - busy_s, saved=True)
        if fault.kind == "stop":
            raise RunError(fault.message)
        memory: Memory = "short" if fault.kind == "memory" else "enough"
        if self._charge(item, fault.error, node, final=fault.kind == "final", memory=memory):
            self._queue.append(item)  # last in the queue: the cause may be gone by then

    def lost(
        self,
        worker: int,
        error: str,
        now_s: float,
        *,
        kind: Loss = "lost",
        charge: bool = True,
        memory: Memory = "enough",
    ) -> None:
        """The worker is gone or silent: its items go to other workers, in the same order.

        `charge`: whether this counts as an attempt of the current item, or as a failed start; never where a machine
        was taken away on purpose ("preempted"). `error` is one line that begins with the type of the error.
        """
        if (state := self._workers.get(worker)) is None:
            return
        charge = charge and kind != "preempted"
        waiting = list(state.items)
        doing = f" on item {waiting[0]}" if waiting else ""
        self._note(kind, f"worker {worker}{doing}: {error}", state.node, waiting[0] if waiting else None)
        self._vacant.append(worker)
        if waiting or state.phase == "starting":
            self._spent.lost(now_s - state.busy_s, saved=bool(waiting))
        self._remove(worker, now_s, why=error)
        if state.phase != "ready" and charge:
            self._count_start_failure(worker, state.node, error)
        self._isolated.update(waiting)
        charge = charge or (kind != "preempted" and bool(waiting) and not self._attempts.is_free(waiting[0]))
        charged = waiting[0] if waiting and charge else None
        if charged is not None and not self._charge(charged, error, state.node, memory=memory):
            waiting.pop(0)
        for item in waiting:
            if item != charged:
                self._note("requeued", f"item {item} goes to another worker", item=item)
        self._queue.extendleft(reversed(waiting))

    # --- bookkeeping ---

    def _busy_s(self, worker: int, now_s: float) -> float:
        """Since when the worker has been busy with what it is busy with."""
        state = self._workers.get(worker)
        return now_s if state is None or state.phase == "pending" else state.busy_s

    def _pop(self, worker: int, now_s: float) -> int | None:
        if (state := self._workers.get(worker)) is None or not state.items:
            return None
        item = state.items.popleft()
        state.moving = False
        state.since_s = state.busy_s = self._changed_s = now_s
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

    def _charge(self, item: int, error: str, node: str, *, final: bool = False, memory: Memory = "enough") -> bool:
        """Count an attempt and return whether the item may be tried again; if not, it has failed."""
        verdict = self._attempts.charge(item, error, node, final=final, memory=memory)
        self._incidents.append(verdict)
        return verdict.kind == "retried"

    def _ban(self, node: str, why: str, *, for_the_run: bool) -> None:
        if for_the_run:
            self.banned_for_the_run[node] = why
        if node not in self.banned:
            self.banned[node] = why
            self._note("banned", f"no worker is placed there any more: {why}", node)
            self._pending_kills.append(Ban(node))

    def _ban_with_all(self, node: str, why: str, now_s: float) -> None:
        """Ban a node that can do no work at all: its workers end."""
        self._ban(node, why, for_the_run=True)
        for worker in [worker for worker, state in self._workers.items() if state.node == node]:
            self.lost(worker, why, now_s, charge=False)

    def _note(self, kind: IncidentKind, message: str, node: str = "", item: int | None = None) -> None:
        self._incidents.append(Incident(kind, message, node, item))

    def _count_start_failure(self, worker: int, node: str, error: str) -> None:
        if not self._start_failures.count(node, worker, self._next):
            return
        why = self._start_failures.words(node, error)
        if node:
            self._ban(node, why, for_the_run=False)
        elif not any(state.phase == "ready" for state in self._workers.values()):
            raise EngineError(f"{self.rules.name}: {why}")
