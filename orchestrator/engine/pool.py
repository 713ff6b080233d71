"""Which worker gets what, and when one is given up: a state machine without Ray and without a clock.

An engine tells it what happened (`placed`, `ready`, `finished`, `faulted`, `lost`) and carries out what
`decide` returns. Time is a number that the caller passes in, so that a thousand workers and a day of
failures are simulated in a test within seconds, twice with the same result.

The rules, each learned from a way in which a pool can hang or lose work:

- A worker that is not yet placed never holds an item: the pool shrinks and grows with the cluster.
- A worker holds up to `depth` items, so that it never waits for the driver; near the end only one, so
  that no item waits behind another while a worker idles.
- When a worker is lost, the first of its items is charged an attempt; the ones behind it had not begun.
  From then on each of them has a worker to itself: a worker that dies at once on the second may take the
  news that the first is done with it, and the wrong one would be charged again and again.
- A worker that is silent on one item for longer than the deadline counts as lost. A frozen machine is
  not noticed by anybody else.
- Starting fails for good when it fails three times in a row, each try begun after the one before had
  failed: all workers of a machine that dies count once. While others work, they go on without it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cellsemi.configs.errors import EngineError, RunError
from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.fault import Fault
from cellsemi.orchestrator.engine.protocol import Failure, Outcome, Record

START_FAILURES = 3
START_DEADLINE_S = 600.0  # at least: loading a large model from slow storage is not silence


@dataclass(frozen=True, slots=True)
class Rules:
    """How a pool treats its workers; times in seconds."""

    name: str  # of the job, for messages
    max_attempts: int
    start_deadline_s: float
    deadline_s: float | None  # for one item; None: as long as it takes
    depth: int = 2
    fresh: bool = False  # a new worker for every item


@dataclass(frozen=True, slots=True)
class Spawn:
    """Ask for a new worker."""

    worker: int


@dataclass(frozen=True, slots=True)
class Send:
    """Give an item to a ready worker, behind those it has."""

    worker: int
    item: int


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker; `why` is empty when its work is simply done."""

    worker: int
    why: str = ""


Command = Spawn | Send | Kill


@dataclass(slots=True)
class _Member:
    state: Literal["pending", "starting", "ready"] = "pending"
    since_s: float = 0.0  # when it was placed, or when the first of its items began
    items: deque[int] = field(default_factory=deque)


def map_rules(config: EngineConfig, name: str) -> Rules:
    """Rules of `Engine.map`."""
    return Rules(name, config.max_attempts, _start_deadline_s(config), config.shard_deadline_s)


def task_rules(config: EngineConfig, name: str) -> Rules:
    """Rules of `Engine.tasks`: training takes as long as it takes."""
    return Rules(name, config.max_attempts, _start_deadline_s(config), None, depth=1, fresh=True)


def _start_deadline_s(config: EngineConfig) -> float:
    return max(START_DEADLINE_S, config.shard_deadline_s)


class Pool:
    """The state of one `map` or `tasks`.

    `wanted` is how many workers there may be at once; the caller may change it at any time. Workers are
    numbered as they are asked for. `done` and `failed` fill up; the pool is `over` when every item is in
    one of them. What is told of a worker that the pool no longer has is ignored.
    """

    def __init__(self, items: Sequence[int], rules: Rules, now_s: float, wanted: int = 1) -> None:
        if len(set(items)) != len(items):
            raise ValueError(f"{rules.name}: expected distinct items, got {len(items) - len(set(items))} twice")
        self.rules = rules
        self.wanted = wanted
        self.done: dict[int, Record] = {}
        self.failed: list[Failure] = []
        self._total = len(items)
        self._queue = deque(items)
        self._attempts: Counter[int] = Counter()
        self._alone: set[int] = set()  # items that were with a lost worker
        self._members: dict[int, _Member] = {}
        self._placed = 0  # members that are not pending
        self._hungry: set[int] = set()  # ready, with room for an item
        self._next = 0  # number of the next worker
        self._start_failures = 0
        self._counted_from = 0  # a worker with a smaller number was asked for before the last counted failure
        self._kills: list[Command] = []
        self._news_s = now_s
        self._looked_s = now_s

    # --- questions ---

    @property
    def over(self) -> bool:
        """Whether every item is done or given up."""
        return len(self.done) + len(self.failed) == self._total

    @property
    def pending(self) -> int:
        """Workers that were asked for and have no place yet."""
        return len(self._members) - self._placed

    @property
    def outcome(self) -> Outcome:
        """What became of the items, in their own order."""
        return Outcome(dict(sorted(self.done.items())), tuple(sorted(self.failed, key=lambda f: f.item)))

    def knows(self, worker: int) -> bool:
        """Whether the pool still has this worker."""
        return worker in self._members

    @property
    def idle(self) -> list[int]:
        """Workers that have started and hold no item."""
        return [number for number, m in self._members.items() if m.state == "ready" and not m.items]

    def waited_s(self, now_s: float) -> float:
        """For how long nothing has happened although there is work, since no worker has a place."""
        return 0.0 if self._placed or self.over else now_s - self._news_s

    # --- decisions ---

    def decide(self, now_s: float) -> list[Command]:
        """What is to be done now, in this order; raises EngineError when workers start no more."""
        self._drop_silent(now_s)
        commands, self._kills = self._kills, []
        if not self.over:
            commands += self._assign(now_s)
            commands += self._spawn()
        return commands

    def _drop_silent(self, now_s: float) -> None:
        rules = self.rules
        shortest_s = min(rules.start_deadline_s, rules.deadline_s or rules.start_deadline_s)
        if now_s - self._looked_s < min(1.0, shortest_s / 4):
            return  # a thousand workers are not looked through for every result
        self._looked_s = now_s
        for worker, member in list(self._members.items()):
            if member.state == "pending" or (member.state == "ready" and not member.items):
                continue
            limit_s = rules.start_deadline_s if member.state == "starting" else rules.deadline_s
            if limit_s is not None and now_s - member.since_s > limit_s:
                doing = "start" if member.state == "starting" else f"item {member.items[0]}"
                why = f"TimeoutError: silent on {doing} for more than {limit_s:g} s"
                self.lost(worker, why, now_s)

    def _assign(self, now_s: float) -> list[Command]:
        commands: list[Command] = []
        for held in range(self.rules.depth):  # a first item for all comes before a second for one
            for worker in sorted(self._hungry):
                if not self._queue or (held and len(self._queue) <= self._placed):
                    return commands
                member = self._members[worker]
                if len(member.items) != held or (held and self._alone & {member.items[-1], self._queue[0]}):
                    continue
                if not held:
                    member.since_s = now_s
                member.items.append(self._queue.popleft())
                if len(member.items) == self.rules.depth:
                    self._hungry.discard(worker)
                commands.append(Send(worker, member.items[-1]))
            if not self._queue:
                break
        return commands

    def _spawn(self) -> list[Command]:
        commands: list[Command] = []
        if len(self._members) >= self.wanted or (self._members and self._start_failures >= START_FAILURES):
            return commands
        busy = sum(1 for member in self._members.values() if member.items)
        while len(self._members) < min(self.wanted, busy + len(self._queue)):
            self._members[self._next] = _Member()
            commands.append(Spawn(self._next))
            self._next += 1
        return commands

    # --- events ---

    def placed(self, worker: int, now_s: float) -> None:
        """The worker has a process and may start the job."""
        member = self._members.get(worker)
        if member is not None and member.state == "pending":
            member.state, member.since_s = "starting", now_s
            self._placed += 1
            self._news_s = now_s

    def ready(self, worker: int, now_s: float) -> None:
        """The worker has started the job."""
        member = self._members.get(worker)
        if member is not None and member.state == "starting":
            member.state = "ready"
            self._hungry.add(worker)
            self._start_failures = 0
            self._news_s = now_s

    def start_failed(self, worker: int, fault: Fault, now_s: float) -> None:
        """`start` ended in an error: the worker is of no use. Raises when that ends the run."""
        if worker not in self._members:
            return
        if fault.kind == "stop":
            raise RunError(fault.message)
        if fault.kind == "final":
            raise EngineError(f"{self.rules.name}: a worker could not start: {fault.message}")
        self._remove(worker, now_s, why=fault.error)
        self._count_start_failure(worker, fault.error)

    def finished(self, worker: int, record: Record, now_s: float) -> None:
        """The worker did the first of its items."""
        item = self._pop(worker, now_s)
        if item is not None:
            self.done[item] = record

    def faulted(self, worker: int, fault: Fault, now_s: float) -> None:
        """The first of the worker's items ended in an error; the worker is well. RunError ends the run."""
        item = self._pop(worker, now_s)
        if item is None:
            return
        if fault.kind == "stop":
            raise RunError(fault.message)
        if self._charge(item, fault.error, final=fault.kind == "final"):
            self._queue.append(item)  # behind the others: what was in its way may be gone by then

    def lost(self, worker: int, error: str, now_s: float, charge: bool = True) -> None:
        """The worker is gone, or as good as gone: its items go to others, the first of them first.

        `charge`: whether it counts against the item at work, or against starting; not when a machine was
        taken away on purpose. `error` is one line that begins with a type.
        """
        member = self._members.get(worker)
        if member is None:
            return
        self._remove(worker, now_s, why=error)
        if member.state != "ready" and charge:
            self._count_start_failure(worker, error)
        waiting = list(member.items)
        self._alone.update(waiting)
        if waiting and charge and not self._charge(waiting[0], error):
            waiting.pop(0)
        self._queue.extendleft(reversed(waiting))

    # --- bookkeeping ---

    def _pop(self, worker: int, now_s: float) -> int | None:
        member = self._members.get(worker)
        if member is None or not member.items:
            return None
        item = member.items.popleft()
        member.since_s = self._news_s = now_s
        if self.rules.fresh:
            self._remove(worker, now_s, why="")
        else:
            self._hungry.add(worker)
        return item

    def _remove(self, worker: int, now_s: float, why: str) -> None:
        member = self._members.pop(worker)
        self._placed -= member.state != "pending"
        self._hungry.discard(worker)
        self._kills.append(Kill(worker, why))
        self._news_s = now_s

    def _charge(self, item: int, error: str, final: bool = False) -> bool:
        """Count an attempt; whether the item may be tried again. If not, it is given up."""
        self._attempts[item] += 1
        again = not final and self._attempts[item] < self.rules.max_attempts
        if not again:
            self.failed.append(Failure(item, self._attempts[item], error))
        return again

    def _count_start_failure(self, worker: int, error: str) -> None:
        if worker < self._counted_from:
            return
        self._counted_from = self._next
        self._start_failures += 1
        others = any(member.state == "ready" for member in self._members.values())
        if self._start_failures >= START_FAILURES and not others:
            raise EngineError(
                f"{self.rules.name}: workers failed to start {self._start_failures} times in a row; last: {error}"
            )
