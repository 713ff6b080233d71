"""The scheduler: who gets which item, and what happens when something goes wrong."""

from dataclasses import replace

import pytest
from helpers.simulated_cluster import RETRY, RULES, started

from cellsemi.configs.errors import EngineError, RunError
from cellsemi.orchestrator.engine.fault import Fault
from cellsemi.orchestrator.engine.protocol import Failure, Incident
from cellsemi.orchestrator.engine.scheduler import Scheduler
from cellsemi.orchestrator.engine.scheduling_rules import (
    Kill,
    SchedulingRules,
    Send,
    Spawn,
)

FRESH = SchedulingRules("train", max_attempts=3, start_deadline_s=60.0, deadline_s=None, depth=1, fresh=True)
FINAL = Fault("final", "ImageError: unreadable", "unreadable")
STOP = Fault("stop", "RunError: disk full", "disk full")


# --- who gets what ----------------------------------------------------------------------------------


def test_a_worker_holds_two_items_and_near_the_end_one() -> None:
    scheduler = started(list(range(6)), workers=2)
    assert scheduler.decide(0.0) == [Send(0, 0), Send(1, 1), Send(0, 2), Send(1, 3)]
    scheduler.finished(0, {}, 1.0)
    assert scheduler.decide(1.0) == []  # two items are left for two workers: neither waits behind another
    scheduler.finished(0, {}, 2.0)
    assert scheduler.decide(2.0) == [Send(0, 4)]


def test_pending_workers_hold_nothing() -> None:
    scheduler = Scheduler(list(range(4)), RULES, 0.0, wanted=3)
    assert scheduler.decide(0.0) == [Spawn(0), Spawn(1), Spawn(2)]
    scheduler.placed(1, 1.0)
    assert scheduler.decide(1.0) == []
    scheduler.ready(1, 2.0)
    assert scheduler.decide(2.0) == [Send(1, 0), Send(1, 1)]
    assert scheduler.pending == 2


def test_no_more_workers_than_items() -> None:
    assert Scheduler([5, 6], RULES, 0.0, wanted=100).decide(0.0) == [Spawn(0), Spawn(1)]


def test_more_workers_are_spawned_when_more_are_wanted() -> None:
    scheduler = started(list(range(9)))
    scheduler.decide(0.0)
    scheduler.wanted = 3
    assert scheduler.decide(1.0) == [Spawn(1), Spawn(2)]


def test_without_items_it_is_over() -> None:
    scheduler = Scheduler([], RULES, 0.0)
    assert scheduler.over and scheduler.decide(0.0) == []


def test_items_must_differ() -> None:
    with pytest.raises(ValueError, match="predict: expected distinct items, got 1 twice"):
        Scheduler([1, 2, 1], RULES, 0.0)


def test_a_fresh_worker_does_one_item() -> None:
    scheduler = started([4, 2], rules=FRESH)
    assert scheduler.decide(0.0) == [Send(0, 4)]
    scheduler.finished(0, {"loss": 1}, 5.0)
    assert scheduler.decide(5.0) == [Kill(0), Spawn(1)]
    assert scheduler.done == {4: {"loss": 1}}


# --- what goes wrong --------------------------------------------------------------------------------


def test_a_lost_worker_is_charged_to_its_first_item_only() -> None:
    scheduler = started([0, 1, 2, 3])
    assert scheduler.decide(0.0) == [Send(0, 0), Send(0, 1)]
    for worker in range(3):
        scheduler.lost(worker, "ActorDiedError: gone", 1.0)
        scheduler.placed(worker + 1, 1.0)  # not asked for yet: ignored
        commands = scheduler.decide(1.0)
        assert commands == [Kill(worker, "ActorDiedError: gone"), Spawn(worker + 1)]
        scheduler.placed(worker + 1, 1.0)
        scheduler.ready(worker + 1, 1.0)
        assert scheduler.decide(1.0) == [Send(worker + 1, 0 if worker < 2 else 1)]  # to itself from now on
    assert scheduler.failed == [Failure(0, 3, "ActorDiedError: gone")]
    scheduler.finished(3, {}, 2.0)
    assert scheduler.decide(2.0) == [Send(3, 2)]
    for _ in range(2):
        scheduler.finished(3, {}, 2.0)
        scheduler.decide(2.0)
    assert scheduler.over and sorted(scheduler.done) == [1, 2, 3]


def test_a_machine_taken_away_is_charged_to_nobody() -> None:
    scheduler = started([0, 1, 2, 3])
    for worker in range(10):
        assert Send(worker, 0) in scheduler.decide(0.0)
        scheduler.lost(worker, "ActorDiedError: preempted", 1.0, kind="preempted")
        assert scheduler.decide(1.0)[-1] == Spawn(worker + 1)
        scheduler.placed(worker + 1, 1.0)
        scheduler.ready(worker + 1, 1.0)
    assert scheduler.failed == []


def test_an_error_is_tried_again_after_the_others_and_then_given_up() -> None:
    scheduler = started([7, 8])
    order = []
    while not scheduler.over:
        for command in scheduler.decide(0.0):
            assert isinstance(command, Send)
            order.append(command.item)
            if command.item == 7:
                scheduler.faulted(0, RETRY, 0.0)
            else:
                scheduler.finished(0, {"rows": 3}, 0.0)
    assert order == [7, 8, 7, 7]
    assert scheduler.outcome.done == {8: {"rows": 3}} and scheduler.outcome.failed == (Failure(7, 3, RETRY.error),)


def test_an_error_of_ours_is_not_tried_again() -> None:
    scheduler = started([7])
    scheduler.decide(0.0)
    scheduler.faulted(0, FINAL, 0.0)
    assert scheduler.over and scheduler.failed == [Failure(7, 1, FINAL.error)]


def test_a_run_error_stops_everything() -> None:
    scheduler = started([7])
    scheduler.decide(0.0)
    with pytest.raises(RunError, match=r"^disk full$"):
        scheduler.faulted(0, STOP, 0.0)


def test_a_silent_worker_is_replaced_from_when_its_item_began() -> None:
    scheduler = started([0, 1, 2, 3, 4])
    scheduler.decide(0.0)
    scheduler.finished(0, {}, 25.0)  # item 1 begins now
    assert scheduler.decide(54.0) == [Send(0, 2)]
    why = "TimeoutError: silent on item 1 for more than 30 s"
    assert scheduler.decide(56.0) == [Kill(0, why), Spawn(1)]
    scheduler.finished(0, {}, 57.0)  # too late: another worker will do it
    assert sorted(scheduler.done) == [0]


def test_work_that_shows_no_progress_has_no_deadline_but_starting_has() -> None:
    scheduler = started([0], rules=FRESH)
    assert scheduler.decide(0.0) == [Send(0, 0)]
    assert scheduler.decide(1e6) == []
    scheduler = Scheduler([0], FRESH, 0.0)
    scheduler.decide(0.0)
    scheduler.placed(0, 1.0)
    (kill, spawn) = scheduler.decide(62.0)
    assert isinstance(kill, Kill) and "silent on start for more than 60 s" in kill.why and spawn == Spawn(1)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (FINAL, EngineError, "^predict: a worker could not start: unreadable$"),
        (STOP, RunError, "^disk full$"),
    ],
)
def test_an_error_of_ours_in_start_ends_the_run_at_once(fault: Fault, kind: type[Exception], message: str) -> None:
    scheduler = Scheduler([0], RULES, 0.0)
    scheduler.decide(0.0)
    scheduler.placed(0, 0.0)
    with pytest.raises(kind, match=message):
        scheduler.start_failed(0, fault, 0.0)


def fail_to_start(scheduler: Scheduler) -> None:
    """Every worker asked for now gets a place and fails."""
    spawned = [command.worker for command in scheduler.decide(0.0) if isinstance(command, Spawn)]
    assert spawned
    for worker in spawned:
        scheduler.placed(worker, 0.0)
    for worker in spawned:
        scheduler.start_failed(worker, RETRY, 0.0)


def test_starting_is_given_up_after_three_rounds_however_many_workers_fail_at_once() -> None:
    scheduler = Scheduler(list(range(100)), RULES, 0.0, wanted=8)
    fail_to_start(scheduler)
    fail_to_start(scheduler)
    with pytest.raises(EngineError, match="failed to start 3 times in a row; last: ValueError: bad"):
        fail_to_start(scheduler)


def test_a_worker_that_starts_ends_the_row_of_failures() -> None:
    scheduler = Scheduler(list(range(100)), RULES, 0.0, wanted=2)
    for _ in range(5):
        fail_to_start(scheduler)
        fail_to_start(scheduler)
        (command, _) = [c for c in scheduler.decide(0.0) if isinstance(c, Spawn)]
        scheduler.placed(command.worker, 0.0)
        scheduler.ready(command.worker, 0.0)
        scheduler.lost(command.worker, "ActorDiedError: gone", 0.0, charge=False)
        scheduler.lost(command.worker + 1, "ActorDiedError: gone", 0.0, charge=False)


def test_others_go_on_without_workers_that_cannot_start() -> None:
    scheduler = started(list(range(50)))
    scheduler.wanted = 2
    for _ in range(3):
        fail_to_start(scheduler)
    assert not [c for c in scheduler.decide(0.0) if isinstance(c, Spawn)]
    while not scheduler.over:
        scheduler.finished(0, {}, 0.0)
        scheduler.decide(0.0)
    assert len(scheduler.done) == 50


def test_waiting_for_a_place_is_measured_only_while_nobody_has_one() -> None:
    scheduler = Scheduler(list(range(9)), RULES, 10.0, wanted=2)
    scheduler.decide(10.0)
    assert scheduler.waited_s(100.0) == 90.0
    scheduler.placed(0, 100.0)
    assert scheduler.waited_s(500.0) == 0.0
    scheduler.lost(0, "NodeDiedError: gone", 500.0, charge=False)
    assert scheduler.waited_s(507.0) == 7.0


# --- what is told -----------------------------------------------------------------------------------


def test_what_a_lost_worker_cost_is_told_and_who_takes_its_place() -> None:
    scheduler = Scheduler([0, 1, 2], RULES, 0.0)
    scheduler.decide(0.0)
    scheduler.placed(0, 0.0, "10.0.0.3/ab")
    scheduler.ready(0, 0.0)
    scheduler.decide(0.0)
    scheduler.lost(0, "ActorDiedError: gone", 1.0)
    scheduler.decide(1.0)
    scheduler.placed(1, 2.0, "10.0.0.4/cd")
    assert scheduler.take_incidents() == [
        Incident("lost", "worker 0 on item 0: ActorDiedError: gone", "10.0.0.3/ab", 0),
        Incident("retried", "item 0 is tried again, 1 of 3 attempts failed: ActorDiedError: gone", "10.0.0.3/ab", 0),
        Incident("requeued", "item 1 goes to another worker", "", 1),
        Incident("replaced", "worker 1 has taken the place of worker 0", "10.0.0.4/cd"),
    ]
    assert scheduler.take_incidents() == []


def test_a_preempted_worker_and_a_frozen_one_are_told_apart() -> None:
    scheduler = started([0, 1, 2, 3, 4, 5], workers=2)
    scheduler.decide(0.0)
    scheduler.lost(0, "ActorDiedError: preempted", 1.0, kind="preempted")
    scheduler.decide(40.0)
    assert [(incident.kind, incident.item) for incident in scheduler.take_incidents()] == [
        ("preempted", 0),
        ("requeued", 0),
        ("requeued", 2),
        ("frozen", 1),
        ("retried", 1),
        ("requeued", 3),
    ]


def test_an_item_that_is_given_up_is_told_with_its_last_error() -> None:
    scheduler = started([7])
    for _ in range(3):
        scheduler.decide(0.0)
        scheduler.faulted(0, RETRY, 0.0)
    told = scheduler.take_incidents()
    assert [incident.kind for incident in told] == ["retried", "retried", "quarantined"]
    assert told[-1].message == "item 7 is given up after 3 attempts: ValueError: bad"


# --- progress ---------------------------------------------------------------------------------------

WATCHED = replace(FRESH, deadline_s=30.0, first_sign_s=100.0)


def test_progress_counts_not_the_whole_time() -> None:
    scheduler = started([0], rules=WATCHED)
    assert scheduler.decide(0.0) == [Send(0, 0)]
    for now in range(20, 2000, 20):
        scheduler.progressed(0, float(now))
        assert scheduler.decide(float(now)) == []
    assert scheduler.decide(2009.0) == []
    why = "TimeoutError: silent on item 0 for more than 30 s"
    assert scheduler.decide(2011.0) == [Kill(0, why), Spawn(1)]
    assert [(i.kind, i.item) for i in scheduler.take_incidents()] == [("frozen", 0), ("retried", 0)]


def test_the_first_sign_of_progress_may_take_longer_than_the_next() -> None:
    scheduler = started([0], rules=WATCHED)
    scheduler.decide(0.0)
    assert scheduler.decide(99.0) == []
    (kill, _) = scheduler.decide(102.0)
    assert isinstance(kill, Kill) and "silent on item 0 for more than 100 s" in kill.why
    scheduler.placed(1, 110.0)
    scheduler.ready(1, 110.0)
    assert scheduler.decide(110.0) == [Send(1, 0)]
    scheduler.progressed(0, 111.0)  # of the one that is gone
    assert scheduler.decide(205.0) == []


# --- demand -----------------------------------------------------------------------------------------


def test_workers_without_a_place_are_fewer_when_less_work_is_left() -> None:
    scheduler = Scheduler(range(4), RULES, 0.0, wanted=4)
    scheduler.decide(0.0)
    scheduler.placed(0, 0.0)
    scheduler.ready(0, 0.0)
    assert scheduler.decide(0.0) == [Send(0, 0), Send(0, 1)]  # two are left for the three that will come
    assert scheduler.decide(1.0) == [Kill(3)]
    scheduler.wanted = 2
    assert scheduler.decide(1.0) == [Kill(2)]
    scheduler.wanted = 0
    assert scheduler.decide(1.0) == [Kill(1)] and scheduler.knows(0)


def test_the_work_is_worth_a_machine_for_every_few_items() -> None:
    assert Scheduler(range(401), RULES, 0.0).worth == 100
    scheduler = Scheduler(range(9), RULES, 0.0)
    assert scheduler.worth == 3
    assert Scheduler(range(9), replace(RULES, items_per_machine=1), 0.0).worth == 9


def test_waiting_is_said_at_once_and_then_now_and_then() -> None:
    scheduler = Scheduler([0], RULES, 0.0)
    for now in range(0, 2000, 5):
        scheduler.waiting("no GPU is alive", float(now))
    assert scheduler.take_incidents() == [Incident("waiting", "no GPU is alive")] * 3
    scheduler.decide(0.0)
    scheduler.placed(0, 2000.0)
    scheduler.waiting("no GPU is alive", 2001.0)
    assert len(scheduler.take_incidents()) == 1
