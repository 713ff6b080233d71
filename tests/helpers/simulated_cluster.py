"""Simulates a cluster whose workers crash, freeze and fail, to test the scheduler without processes."""

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass

from cellsemi.orchestrator.engine.fault import Fault
from cellsemi.orchestrator.engine.scheduler import Scheduler
from cellsemi.orchestrator.engine.scheduling_rules import Kill, SchedulerCommand, SchedulingRules, Send, Spawn

RULES = SchedulingRules("predict", max_attempts=3, start_deadline_s=60.0, deadline_s=30.0)
RETRY = Fault("retry", "ValueError: bad", "bad")


@dataclass(frozen=True)
class Luck:
    """Probabilities, for each item a worker begins, of how it ends; `poison` items always end the worker."""

    crash: float = 0.0
    freeze: float = 0.0
    error: float = 0.0
    bad_start: float = 0.0
    poison: frozenset[int] = frozenset()


class World:
    """A cluster of `slots` places whose workers need about a second per item, until the scheduler is over."""

    def __init__(self, scheduler: Scheduler, slots: int, luck: Luck, seed: int) -> None:
        self.scheduler, self.slots, self.luck = scheduler, slots, luck
        self.draw = random.Random(seed)
        self.now = 0.0
        self.events: list[tuple[float, int, str, int]] = []
        self.waiting: list[int] = []  # spawned, without a place
        self.held: dict[int, list[int]] = {}  # items of the placed workers
        self.frozen: set[int] = set()
        self.log: list[SchedulerCommand] = []
        self.runs: Counter[int] = Counter()  # how often an item was begun
        self.failures: Counter[int] = Counter()  # how often it ended badly
        self.order = itertools.count()

    def play(self) -> None:
        while not self.scheduler.over:
            for command in self.scheduler.decide(self.now):
                self.log.append(command)
                self.obey(command)
            while self.waiting and len(self.held) < self.slots:
                worker = self.waiting.pop(0)
                self.held[worker] = []
                self.later(0.5, "place", worker)
            if self.events and self.events[0][0] <= self.now + 1.0:
                self.now, _, what, worker = heapq.heappop(self.events)
                if worker in self.held and worker not in self.frozen:
                    self.happen(what, worker)
            else:
                self.now += 1.0
            assert self.now < 100_000, "the scheduler hangs"

    def later(self, delay_s: float, what: str, worker: int) -> None:
        heapq.heappush(self.events, (self.now + delay_s, next(self.order), what, worker))

    def obey(self, command: SchedulerCommand) -> None:
        match command:
            case Spawn(worker):
                self.waiting.append(worker)
            case Send(worker, item):
                assert all(item not in items for items in self.held.values())
                self.held[worker].append(item)
                assert len(self.held[worker]) <= self.scheduler.rules.depth
                if len(self.held[worker]) == 1:
                    self.begin(worker)
            case Kill(worker, why):
                items = self.held.pop(worker, [])
                self.waiting = [other for other in self.waiting if other != worker]
                if "silent on item" in why:
                    assert worker in self.frozen
                    self.failures[items[0]] += 1

    def begin(self, worker: int) -> None:
        item, luck = self.held[worker][0], self.luck
        self.runs[item] += 1
        shares = [1.0, 0.0, 0.0] if item in luck.poison else [luck.crash, luck.freeze, luck.error]
        (what,) = self.draw.choices(["crash", "freeze", "error", "done"], [*shares, 1.0 - sum(shares)])
        self.later(min(self.draw.expovariate(1.0), 20.0), what, worker)

    def happen(self, what: str, worker: int) -> None:
        match what:
            case "place":
                self.scheduler.placed(worker, self.now)
                self.later(2.0, "start", worker)
            case "start" if self.draw.random() < self.luck.bad_start:
                self.scheduler.start_failed(worker, RETRY, self.now)
            case "start":
                self.scheduler.ready(worker, self.now)
            case "freeze":
                self.frozen.add(worker)
            case "crash":
                self.failures[self.held[worker][0]] += 1
                self.held[worker] = []
                self.scheduler.lost(worker, "ActorDiedError: gone", self.now)
            case _:
                self.end_item(worker, well=what == "done")

    def end_item(self, worker: int, well: bool) -> None:
        item = self.held[worker].pop(0)
        if well:
            self.scheduler.finished(worker, {"item": item}, self.now)
        else:
            self.failures[item] += 1
            self.scheduler.faulted(worker, RETRY, self.now)
        if self.held[worker]:
            self.begin(worker)

    def check(self) -> None:
        """What must hold whatever happened."""
        done, given_up = self.scheduler.done, {failure.item: failure.attempts for failure in self.scheduler.failed}
        limit = self.scheduler.rules.max_attempts
        assert len(given_up) == len(self.scheduler.failed) and not given_up.keys() & done.keys()
        assert all(record == {"item": item} for item, record in done.items())
        assert all(self.failures[item] < limit for item in done)
        assert all(attempts == limit == self.failures[item] for item, attempts in given_up.items())
        # Nothing is done twice, unless its worker failed it.
        assert all(self.runs[item] == self.failures[item] + (item in done) for item in self.runs)


def started(items: list[int], workers: int = 1, rules: SchedulingRules = RULES) -> Scheduler:
    """A scheduler whose workers are all ready at time 0."""
    scheduler = Scheduler(items, rules, 0.0, workers)
    for command in scheduler.decide(0.0):
        assert isinstance(command, Spawn)
        scheduler.placed(command.worker, 0.0)
        scheduler.ready(command.worker, 0.0)
    return scheduler
