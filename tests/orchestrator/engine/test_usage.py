"""What workers reserve and what becomes of it, against sums made by hand and a simulated cluster."""

from types import SimpleNamespace

import pytest
from helpers.simulated_cluster import RULES, Luck, World
from hypothesis import given
from hypothesis import strategies as st

from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.fault import Fault
from cellsemi.orchestrator.engine.scheduler import Scheduler
from cellsemi.orchestrator.engine.scheduling_rules import SchedulingRules, map_rules, task_rules
from cellsemi.orchestrator.engine.usage import Held, Meter, NodeLoad, Seconds, Usage


class Timed(World):
    """Adds up itself how long items took that ended well, and those that ended with an error or with the worker."""

    well_s = badly_s = 0.0

    def begin(self, worker: int) -> None:
        self.begun = {**getattr(self, "begun", {}), worker: self.now}
        super().begin(worker)

    def happen(self, what: str, worker: int) -> None:
        if what in ("crash", "error", "done"):
            took_s = self.now - self.begun[worker]
            self.well_s += took_s if what == "done" else 0.0
            self.badly_s += 0.0 if what == "done" else took_s
        super().happen(what, worker)


def ready_at(second: float, items: int = 2, rules: SchedulingRules = RULES) -> Scheduler:
    """One worker, placed at 0, ready then; its first item is given to it at once."""
    scheduler = Scheduler(range(items), rules, 0.0)
    scheduler.decide(0.0)
    scheduler.placed(0, 0.0, "a")
    scheduler.ready(0, second)
    scheduler.decide(second)
    return scheduler


def test_a_worker_starts_computes_as_it_measured_and_goes_on() -> None:
    scheduler = ready_at(4.0)
    assert scheduler.spent(9.0) == Seconds(starting=4.0, computing=5.0)  # in progress
    scheduler.finished(0, {}, 10.0, took_s=5.5)
    assert scheduler.spent(10.0) == Seconds(starting=4.0, computing=5.5)
    scheduler.decide(10.0)
    scheduler.finished(0, {}, 12.0)
    assert scheduler.spent(99.0) == Seconds(starting=4.0, computing=7.5)


def test_what_a_loss_costs_is_no_longer_computing() -> None:
    scheduler = ready_at(1.0)
    assert scheduler.spent(7.0).computing == 6.0
    scheduler.lost(0, "ActorDiedError: gone", 8.0)
    assert scheduler.spent(20.0) == Seconds(starting=1.0, lost=7.0)
    errors = ready_at(1.0)
    errors.faulted(0, Fault("retry", "ValueError: bad", "bad"), 4.0)
    assert errors.spent(4.0).lost == 3.0


def test_a_worker_that_could_not_start_is_lost_and_an_idle_one_costs_nothing() -> None:
    scheduler = Scheduler([0], RULES, 0.0)
    scheduler.decide(0.0)
    assert scheduler.spent(50.0) == Seconds()  # it has no place yet
    scheduler.placed(0, 50.0, "a")
    assert scheduler.spent(60.0).starting == 10.0
    scheduler.start_failed(0, Fault("retry", "OSError: no weights", ""), 62.0)
    assert scheduler.spent(70.0) == Seconds(lost=12.0)
    idle = ready_at(1.0, items=1)
    idle.finished(0, {}, 3.0)
    idle.lost(0, "gone", 90.0)
    assert idle.spent(90.0) == Seconds(starting=1.0, computing=2.0)


def test_a_training_loses_at_most_what_lies_between_two_checkpoints() -> None:
    config = EngineConfig(checkpoint_s=30.0)
    training = ready_at(0.0, rules=task_rules(config, SimpleNamespace(name="train"), fresh=False))
    training.lost(0, "gone", 1000.0)
    assert training.spent(1000.0) == Seconds(computing=970.0, lost=30.0)
    shard = ready_at(0.0, rules=map_rules(config, SimpleNamespace(name="predict")))
    shard.lost(0, "gone", 1000.0)
    assert shard.spent(1000.0) == Seconds(lost=1000.0)


def test_the_meter_counts_those_that_stand_by_and_gives_each_second_once() -> None:
    meter, scheduler = Meter(), ready_at(0.0)
    meter.begin(scheduler, 0.5)
    meter.sample([Held("a", 0.5), Held("b", 1.0)], 0.0)
    first = meter.take(10.0, cluster_gpus=4.0)
    assert first.workers == Seconds(20.0, computing=10.0) and first.gpus == Seconds(15.0, computing=5.0)
    assert first.nodes == {"a": NodeLoad(1, 0.5), "b": NodeLoad(1, 1.0)} and first.cluster_gpus == 4.0
    scheduler.lost(0, "gone", 12.0)
    meter.sample([Held("b", 1.0)], 12.0)
    meter.end(12.0)
    second = meter.take(20.0)
    assert second.workers == Seconds(12.0, computing=-10.0, lost=12.0)  # what was computing was lost
    total = first.gpus.plus(second.gpus)
    assert total == Seconds(26.0, lost=6.0) and total.idle == 20.0
    assert meter.take(20.0).workers == Seconds()


@given(st.lists(st.floats(0.0, 100.0), max_size=8), st.integers(0, 3))
def test_however_often_it_is_taken_the_sum_is_the_same(steps: list[float], holding: int) -> None:
    held, once, often = [Held("a", 1.0)] * holding, Meter(), Meter()
    now, total = 0.0, Usage()
    for meter in (once, often):
        meter.sample(held, 0.0)
    for step in steps:
        now += step
        part = often.take(now)
        total = Usage(total.workers.plus(part.workers), total.gpus.plus(part.gpus))
    assert total.workers.reserved == pytest.approx(once.take(now).workers.reserved) == pytest.approx(holding * now)
    assert total.gpus.reserved == pytest.approx(holding * now)


def test_on_a_cluster_of_failures_the_parts_are_never_more_than_was_reserved() -> None:
    scheduler = Scheduler(range(300), RULES, 0.0, wanted=8)
    world = Timed(scheduler, slots=8, luck=Luck(crash=0.05, freeze=0.02, error=0.05, bad_start=0.05), seed=3)
    world.play()
    spent = scheduler.spent(world.now)
    assert spent.computing == pytest.approx(world.well_s) and world.well_s > 100
    assert spent.lost > world.badly_s > 10  # frozen workers and bad starts besides
    assert spent.starting + spent.computing + spent.lost <= 8 * world.now
