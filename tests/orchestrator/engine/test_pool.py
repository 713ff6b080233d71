"""The pool against a simulated cluster: nothing is lost, nothing hangs, attempts are counted right."""

import heapq
import itertools
import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.configs.errors import EngineError, RunError
from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.fault import Fault
from cellsemi.orchestrator.engine.pool import Command, Kill, Pool, Rules, Send, Spawn, map_rules, task_rules
from cellsemi.orchestrator.engine.protocol import Failure

RULES = Rules("predict", max_attempts=3, start_deadline_s=60.0, deadline_s=30.0)
FRESH = Rules("train", max_attempts=3, start_deadline_s=60.0, deadline_s=None, depth=1, fresh=True)
RETRY = Fault("retry", "ValueError: bad", "bad")
FINAL = Fault("final", "ImageError: unreadable", "unreadable")
STOP = Fault("stop", "RunError: disk full", "disk full")


def started(items: list[int], workers: int = 1, rules: Rules = RULES) -> Pool:
    """A pool whose workers are all ready at time 0."""
    pool = Pool(items, rules, 0.0, workers)
    for command in pool.decide(0.0):
        assert isinstance(command, Spawn)
        pool.placed(command.worker, 0.0)
        pool.ready(command.worker, 0.0)
    return pool


# --- who gets what ----------------------------------------------------------------------------------


def test_a_worker_holds_two_items_and_near_the_end_one() -> None:
    pool = started(list(range(6)), workers=2)
    assert pool.decide(0.0) == [Send(0, 0), Send(1, 1), Send(0, 2), Send(1, 3)]
    pool.finished(0, {}, 1.0)
    assert pool.decide(1.0) == []  # two items are left for two workers: neither waits behind another
    pool.finished(0, {}, 2.0)
    assert pool.decide(2.0) == [Send(0, 4)]


def test_pending_workers_hold_nothing() -> None:
    pool = Pool(list(range(4)), RULES, 0.0, wanted=3)
    assert pool.decide(0.0) == [Spawn(0), Spawn(1), Spawn(2)]
    pool.placed(1, 1.0)
    assert pool.decide(1.0) == []
    pool.ready(1, 2.0)
    assert pool.decide(2.0) == [Send(1, 0), Send(1, 1)]
    assert pool.pending == 2


def test_no_more_workers_than_items() -> None:
    assert Pool([5, 6], RULES, 0.0, wanted=100).decide(0.0) == [Spawn(0), Spawn(1)]


def test_the_pool_grows_when_more_are_wanted() -> None:
    pool = started(list(range(9)))
    pool.decide(0.0)
    pool.wanted = 3
    assert pool.decide(1.0) == [Spawn(1), Spawn(2)]


def test_without_items_it_is_over() -> None:
    pool = Pool([], RULES, 0.0)
    assert pool.over and pool.decide(0.0) == []


def test_items_must_differ() -> None:
    with pytest.raises(ValueError, match="predict: expected distinct items, got 1 twice"):
        Pool([1, 2, 1], RULES, 0.0)


def test_a_fresh_worker_does_one_item() -> None:
    pool = started([4, 2], rules=FRESH)
    assert pool.decide(0.0) == [Send(0, 4)]
    pool.finished(0, {"loss": 1}, 5.0)
    assert pool.decide(5.0) == [Kill(0), Spawn(1)]
    assert pool.done == {4: {"loss": 1}}


# --- what goes wrong --------------------------------------------------------------------------------


def test_a_lost_worker_is_charged_to_its_first_item_only() -> None:
    pool = started([0, 1, 2, 3])
    assert pool.decide(0.0) == [Send(0, 0), Send(0, 1)]
    for worker in range(3):
        pool.lost(worker, "ActorDiedError: gone", 1.0)
        pool.placed(worker + 1, 1.0)  # not asked for yet: ignored
        commands = pool.decide(1.0)
        assert commands == [Kill(worker, "ActorDiedError: gone"), Spawn(worker + 1)]
        pool.placed(worker + 1, 1.0)
        pool.ready(worker + 1, 1.0)
        assert pool.decide(1.0) == [Send(worker + 1, 0 if worker < 2 else 1)]  # to itself from now on
    assert pool.failed == [Failure(0, 3, "ActorDiedError: gone")]
    pool.finished(3, {}, 2.0)
    assert pool.decide(2.0) == [Send(3, 2)]
    for _ in range(2):
        pool.finished(3, {}, 2.0)
        pool.decide(2.0)
    assert pool.over and sorted(pool.done) == [1, 2, 3]


def test_a_machine_taken_away_is_charged_to_nobody() -> None:
    pool = started([0, 1, 2, 3])
    for worker in range(10):
        assert Send(worker, 0) in pool.decide(0.0)
        pool.lost(worker, "ActorDiedError: preempted", 1.0, charge=False)
        assert pool.decide(1.0)[-1] == Spawn(worker + 1)
        pool.placed(worker + 1, 1.0)
        pool.ready(worker + 1, 1.0)
    assert pool.failed == []


def test_an_error_is_tried_again_after_the_others_and_then_given_up() -> None:
    pool = started([7, 8])
    order = []
    while not pool.over:
        for command in pool.decide(0.0):
            assert isinstance(command, Send)
            order.append(command.item)
            if command.item == 7:
                pool.faulted(0, RETRY, 0.0)
            else:
                pool.finished(0, {"rows": 3}, 0.0)
    assert order == [7, 8, 7, 7]
    assert pool.outcome.done == {8: {"rows": 3}} and pool.outcome.failed == (Failure(7, 3, RETRY.error),)


def test_an_error_of_ours_is_not_tried_again() -> None:
    pool = started([7])
    pool.decide(0.0)
    pool.faulted(0, FINAL, 0.0)
    assert pool.over and pool.failed == [Failure(7, 1, FINAL.error)]


def test_a_run_error_stops_everything() -> None:
    pool = started([7])
    pool.decide(0.0)
    with pytest.raises(RunError, match=r"^disk full$"):
        pool.faulted(0, STOP, 0.0)


def test_a_silent_worker_is_replaced_from_when_its_item_began() -> None:
    pool = started([0, 1, 2, 3, 4])
    pool.decide(0.0)
    pool.finished(0, {}, 25.0)  # item 1 begins now
    assert pool.decide(54.0) == [Send(0, 2)]
    why = "TimeoutError: silent on item 1 for more than 30 s"
    assert pool.decide(56.0) == [Kill(0, why), Spawn(1)]
    pool.finished(0, {}, 57.0)  # too late: another worker will do it
    assert sorted(pool.done) == [0]


def test_training_has_no_deadline_but_starting_has() -> None:
    pool = started([0], rules=FRESH)
    assert pool.decide(0.0) == [Send(0, 0)]
    assert pool.decide(1e6) == []
    pool = Pool([0], FRESH, 0.0)
    pool.decide(0.0)
    pool.placed(0, 1.0)
    (kill, spawn) = pool.decide(62.0)
    assert isinstance(kill, Kill) and "silent on start for more than 60 s" in kill.why and spawn == Spawn(1)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (FINAL, EngineError, "^predict: a worker could not start: unreadable$"),
        (STOP, RunError, "^disk full$"),
    ],
)
def test_an_error_of_ours_in_start_ends_the_run_at_once(fault: Fault, kind: type[Exception], message: str) -> None:
    pool = Pool([0], RULES, 0.0)
    pool.decide(0.0)
    pool.placed(0, 0.0)
    with pytest.raises(kind, match=message):
        pool.start_failed(0, fault, 0.0)


def fail_to_start(pool: Pool) -> None:
    """Every worker asked for now gets a place and fails."""
    spawned = [command.worker for command in pool.decide(0.0) if isinstance(command, Spawn)]
    assert spawned
    for worker in spawned:
        pool.placed(worker, 0.0)
    for worker in spawned:
        pool.start_failed(worker, RETRY, 0.0)


def test_starting_is_given_up_after_three_rounds_however_many_workers_fail_at_once() -> None:
    pool = Pool(list(range(100)), RULES, 0.0, wanted=8)
    fail_to_start(pool)
    fail_to_start(pool)
    with pytest.raises(EngineError, match="failed to start 3 times in a row; last: ValueError: bad"):
        fail_to_start(pool)


def test_a_worker_that_starts_ends_the_row_of_failures() -> None:
    pool = Pool(list(range(100)), RULES, 0.0, wanted=2)
    for _ in range(5):
        fail_to_start(pool)
        fail_to_start(pool)
        (command, _) = [c for c in pool.decide(0.0) if isinstance(c, Spawn)]
        pool.placed(command.worker, 0.0)
        pool.ready(command.worker, 0.0)
        pool.lost(command.worker, "ActorDiedError: gone", 0.0, charge=False)
        pool.lost(command.worker + 1, "ActorDiedError: gone", 0.0, charge=False)


def test_others_go_on_without_workers_that_cannot_start() -> None:
    pool = started(list(range(50)))
    pool.wanted = 2
    for _ in range(3):
        fail_to_start(pool)
    assert not [c for c in pool.decide(0.0) if isinstance(c, Spawn)]
    while not pool.over:
        pool.finished(0, {}, 0.0)
        pool.decide(0.0)
    assert len(pool.done) == 50


def test_waiting_for_a_place_is_measured_only_while_nobody_has_one() -> None:
    pool = Pool(list(range(9)), RULES, 10.0, wanted=2)
    pool.decide(10.0)
    assert pool.waited_s(100.0) == 90.0
    pool.placed(0, 100.0)
    assert pool.waited_s(500.0) == 0.0
    pool.lost(0, "NodeDiedError: gone", 500.0, charge=False)
    assert pool.waited_s(507.0) == 7.0


def test_rules_come_from_the_config() -> None:
    config = EngineConfig(max_attempts=5, shard_deadline_s=7)
    mapped, trained = map_rules(config, "a"), task_rules(config, "b")
    assert (mapped.deadline_s, mapped.max_attempts, mapped.depth, mapped.fresh) == (7, 5, 2, False)
    assert (trained.deadline_s, trained.max_attempts, trained.depth, trained.fresh) == (None, 5, 1, True)
    assert mapped.start_deadline_s == 600 == trained.start_deadline_s
    assert map_rules(EngineConfig(shard_deadline_s=7200), "a").start_deadline_s == 7200


# --- a simulated cluster ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Luck:
    """Probabilities, for each item a worker begins, of how it ends; `poison` items always end the worker."""

    crash: float = 0.0
    freeze: float = 0.0
    error: float = 0.0
    bad_start: float = 0.0
    poison: frozenset[int] = frozenset()


class World:
    """A cluster of `slots` places whose workers need about a second per item, played to the pool's end."""

    def __init__(self, pool: Pool, slots: int, luck: Luck, seed: int) -> None:
        self.pool, self.slots, self.luck = pool, slots, luck
        self.draw = random.Random(seed)
        self.now = 0.0
        self.events: list[tuple[float, int, str, int]] = []
        self.waiting: list[int] = []  # spawned, without a place
        self.held: dict[int, list[int]] = {}  # items of the placed workers
        self.frozen: set[int] = set()
        self.log: list[Command] = []
        self.runs: Counter[int] = Counter()  # how often an item was begun
        self.failures: Counter[int] = Counter()  # how often it ended badly
        self.order = itertools.count()

    def play(self) -> None:
        while not self.pool.over:
            for command in self.pool.decide(self.now):
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
            assert self.now < 100_000, "the pool hangs"

    def later(self, delay_s: float, what: str, worker: int) -> None:
        heapq.heappush(self.events, (self.now + delay_s, next(self.order), what, worker))

    def obey(self, command: Command) -> None:
        match command:
            case Spawn(worker):
                self.waiting.append(worker)
            case Send(worker, item):
                assert all(item not in items for items in self.held.values())
                self.held[worker].append(item)
                assert len(self.held[worker]) <= self.pool.rules.depth
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
                self.pool.placed(worker, self.now)
                self.later(2.0, "start", worker)
            case "start" if self.draw.random() < self.luck.bad_start:
                self.pool.start_failed(worker, RETRY, self.now)
            case "start":
                self.pool.ready(worker, self.now)
            case "freeze":
                self.frozen.add(worker)
            case "crash":
                self.failures[self.held[worker][0]] += 1
                self.held[worker] = []
                self.pool.lost(worker, "ActorDiedError: gone", self.now)
            case _:
                self.end_item(worker, well=what == "done")

    def end_item(self, worker: int, well: bool) -> None:
        item = self.held[worker].pop(0)
        if well:
            self.pool.finished(worker, {"item": item}, self.now)
        else:
            self.failures[item] += 1
            self.pool.faulted(worker, RETRY, self.now)
        if self.held[worker]:
            self.begin(worker)

    def check(self) -> None:
        """What must hold whatever happened."""
        done, given_up = self.pool.done, {failure.item: failure.attempts for failure in self.pool.failed}
        limit = self.pool.rules.max_attempts
        assert len(given_up) == len(self.pool.failed) and not given_up.keys() & done.keys()
        assert all(record == {"item": item} for item, record in done.items())
        assert all(self.failures[item] < limit for item in done)
        assert all(attempts == limit == self.failures[item] for item, attempts in given_up.items())
        # Nothing is done twice, unless its worker failed it.
        assert all(self.runs[item] == self.failures[item] + (item in done) for item in self.runs)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_item_ends_once(data: st.DataObject) -> None:
    n, slots, wanted = (data.draw(st.integers(1, most)) for most in (40, 12, 12))
    shares = data.draw(st.tuples(*[st.floats(0, 0.2)] * 4))
    luck = Luck(*shares, poison=data.draw(st.frozensets(st.integers(0, 39), max_size=3)))
    attempts, seed, fresh = data.draw(st.tuples(st.integers(1, 4), st.integers(0, 2**32), st.booleans()))
    rules = Rules("job", attempts, 60.0, 30.0, depth=1 if fresh else 2, fresh=fresh)
    worlds = [World(Pool(range(n), rules, 0.0, wanted), slots, luck, seed) for _ in range(2)]
    ended = set()
    for world in worlds:
        try:
            world.play()
        except EngineError as error:  # rightly, when there are few others: three bad starts in a row
            assert luck.bad_start > 0 and "failed to start 3 times in a row" in str(error)
            ended.add(str(error))
        else:
            assert sorted([*world.pool.done, *(f.item for f in world.pool.failed)]) == list(range(n))
            world.check()
            ended.add("over")
    assert len(ended) == 1 and worlds[0].log == worlds[1].log


def test_a_thousand_workers_and_their_failures() -> None:
    luck = Luck(crash=0.01, freeze=0.002, error=0.01, bad_start=0.05, poison=frozenset([17, 4711]))
    world = World(Pool(range(6000), RULES, 0.0, wanted=1000), 1000, luck, seed=1)
    world.play()
    world.check()
    given_up = {failure.item for failure in world.pool.failed}
    assert {17, 4711} <= given_up and len(given_up) < 10
    assert len(world.pool.done) + len(given_up) == 6000
    sent = [command.item for command in world.log if isinstance(command, Send)]
    assert list(dict.fromkeys(sent)) == list(range(6000))  # begun in the order given


def test_undisturbed_every_item_is_sent_once_and_no_worker_is_replaced() -> None:
    world = World(Pool(range(500), RULES, 0.0, wanted=10), 10, Luck(), seed=3)
    world.play()
    world.check()
    assert len(world.pool.done) == 500 == sum(isinstance(command, Send) for command in world.log)
    assert [command for command in world.log if not isinstance(command, Send)] == [Spawn(i) for i in range(10)]
