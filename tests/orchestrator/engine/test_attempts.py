"""Which end of a worker costs its item an attempt, and when an item gets along with less memory."""

from dataclasses import replace

from helpers.simulated_cluster import RULES, started

from cellsemi.orchestrator.engine.fault import Fault
from cellsemi.orchestrator.engine.protocol import Failure
from cellsemi.orchestrator.engine.scheduling_rules import Send


def test_a_machine_that_is_gone_costs_no_attempt_but_an_item_cannot_take_machines_for_ever() -> None:
    scheduler = started([0])
    for worker in range(23):
        assert Send(worker, 0) in scheduler.decide(0.0)
        scheduler.lost(worker, "its node is gone", 0.0, charge=False)
        scheduler.decide(0.0)
        scheduler.placed(worker + 1, 0.0)
        scheduler.ready(worker + 1, 0.0)
    assert scheduler.failed == [Failure(0, 3, "its node is gone")]


def test_an_item_that_runs_out_of_memory_gets_along_with_less_and_is_then_given_up() -> None:
    scheduler = started([7], rules=replace(RULES, max_attempts=1))
    sent = []
    for _ in range(3):
        (send,) = scheduler.decide(0.0)
        assert isinstance(send, Send)
        sent.append(send.less_memory)
        scheduler.faulted(0, Fault("memory", "MemoryError", ""), 0.0)
    assert sent == [0, 1, 2] and scheduler.failed == [Failure(7, 3, "MemoryError")]
    told = scheduler.take_incidents()
    assert [i.kind for i in told] == ["retried", "retried", "quarantined"]
    assert "with 1/2 of the memory, where it can" in told[0].message


def test_a_kill_from_outside_means_want_of_memory_the_second_time() -> None:
    scheduler = started([7])
    for worker, halvings in enumerate([0, 0, 1]):
        assert Send(worker, 7, halvings) in scheduler.decide(0.0)
        scheduler.lost(worker, "ActorDiedError: gone", 0.0, memory="unknown")
        scheduler.decide(0.0)
        scheduler.placed(worker + 1, 0.0)
        scheduler.ready(worker + 1, 0.0)
    assert scheduler.failed == [Failure(7, 3, "ActorDiedError: gone")]
