"""Nodes that cannot do the work are banned, and the work goes on as long as one is left."""

import pytest
from helpers.simulated_cluster import RETRY, RULES

from cellsemi.configs.errors import EngineError
from cellsemi.orchestrator.engine.fault import Fault
from cellsemi.orchestrator.engine.scheduler import Scheduler
from cellsemi.orchestrator.engine.scheduling_rules import Ban, Kill, Send, Spawn


def on_nodes(nodes: list[str], items: int = 20) -> Scheduler:
    """A scheduler with a placed worker on each node, which are the nodes of the cluster."""
    scheduler = Scheduler(range(items), RULES, 0.0, wanted=len(nodes))
    scheduler.nodes = set(nodes)
    for command, node in zip(scheduler.decide(0.0), nodes, strict=True):
        assert isinstance(command, Spawn)
        scheduler.placed(command.worker, 0.0, node)
    return scheduler


NODE = Fault("node", "EngineError: no mount", "no mount")


def test_a_node_that_cannot_do_the_work_is_banned_and_the_work_goes_on() -> None:
    scheduler = on_nodes(["a", "b"])
    scheduler.ready(0, 1.0)
    scheduler.start_failed(1, NODE, 1.0)
    assert scheduler.decide(1.0) == [
        Kill(1, "EngineError: no mount"),
        Ban("b"),
        Send(0, 0),
        Send(0, 1),
        Spawn(2),
    ]
    assert scheduler.banned == scheduler.banned_for_the_run == {"b": "no mount"}
    told = scheduler.take_incidents()
    assert [(i.kind, i.node) for i in told] == [("lost", "b"), ("banned", "b")]
    assert told[1].message == "no worker is placed there any more: no mount"


def test_a_node_that_fails_meanwhile_costs_no_attempt_and_all_of_its_workers_end() -> None:
    scheduler = on_nodes(["a", "b", "b"])
    for worker in range(3):
        scheduler.ready(worker, 1.0)
    scheduler.decide(1.0)
    for _ in range(2):
        scheduler.faulted(1, NODE, 2.0)
    commands = scheduler.decide(2.0)
    assert commands[0] == Ban("b") and {c.worker for c in commands if isinstance(c, Kill)} == {1, 2}
    told = scheduler.take_incidents()
    assert not [i for i in told if i.kind in ("retried", "quarantined")]
    assert sorted(i.item for i in told if i.kind == "requeued") == [1, 2, 4, 5]
    scheduler.placed(3, 3.0, "a")
    scheduler.ready(3, 3.0)
    assert Send(3, 2) in scheduler.decide(3.0)


@pytest.mark.parametrize("late", [False, True])
def test_the_run_ends_when_no_node_is_left(late: bool) -> None:
    scheduler = on_nodes(["a", "b"])
    scheduler.start_failed(0, NODE, 1.0)
    scheduler.decide(1.0)
    if late:
        scheduler.ready(1, 1.0)
        scheduler.decide(1.0)
        scheduler.faulted(1, Fault("node", "EngineError: full", "the disk is full"), 2.0)
        message = r"predict: no mount \(tried on node a\); the disk is full \(tried on node b\)"
    else:
        scheduler.start_failed(1, NODE, 1.0)
        message = r"predict: no mount \(tried on nodes a, b\)"
    assert Ban("b") in scheduler.decide(2.0)  # the caller looks for new nodes now
    with pytest.raises(EngineError, match=message):
        scheduler.decide(2.0)


def test_a_node_that_comes_keeps_the_run_alive() -> None:
    scheduler = on_nodes(["a"])
    scheduler.start_failed(0, NODE, 1.0)
    assert Spawn(1) in scheduler.decide(1.0)
    scheduler.nodes = {"a", "c"}
    assert scheduler.decide(2.0) == []
    scheduler.placed(1, 3.0, "c")
    scheduler.nodes = {"a"}  # the count is older than the place
    assert scheduler.decide(3.0) == []


def test_an_error_of_ours_in_start_is_tried_on_every_node() -> None:
    scheduler = on_nodes(["a", "b"])
    final = Fault("final", "ModelError: no weights", "no weights")
    scheduler.start_failed(0, final, 1.0)
    scheduler.ready(1, 1.0)  # the weights are there
    assert Ban("a") in scheduler.decide(1.0)
    assert scheduler.banned_for_the_run == {"a": "a worker could not start: no weights"}
    scheduler = on_nodes(["a", "b"])
    for worker in range(2):
        scheduler.start_failed(worker, final, 1.0)
    scheduler.decide(1.0)
    with pytest.raises(EngineError, match=r"^predict: a worker could not start: no weights \(tried on nodes a, b\)$"):
        scheduler.decide(1.0)


def test_three_bad_starts_in_a_row_ban_a_node_for_this_work() -> None:
    scheduler = on_nodes(["a", "b"])
    scheduler.ready(0, 0.0)
    worker = 1
    for _ in range(3):
        assert scheduler.banned == {}
        scheduler.start_failed(worker, RETRY, 1.0)
        worker = next(c.worker for c in scheduler.decide(1.0) if isinstance(c, Spawn))
        scheduler.placed(worker, 1.0, "b")
    assert scheduler.banned == {"b": "workers failed to start 3 times in a row; last: ValueError: bad"}
    assert scheduler.banned_for_the_run == {}


def test_nodes_that_earlier_work_banned_count_as_lost() -> None:
    scheduler = Scheduler([0], RULES, 0.0, banned={"a": "no mount"})
    scheduler.nodes = {"a"}
    with pytest.raises(EngineError, match="predict: no mount"):
        scheduler.decide(0.0)
