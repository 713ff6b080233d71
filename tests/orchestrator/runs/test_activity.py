"""What the events of a run say: sums, losses and pace against values made by hand, read at once or bit by bit."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellsemi.orchestrator.engine.protocol import Incident
from cellsemi.orchestrator.engine.usage import NodeLoad, Seconds, Usage
from cellsemi.orchestrator.events import EventLog, SilentWatcher
from cellsemi.orchestrator.runs import activity as module
from cellsemi.orchestrator.runs.activity import BETWEEN, Activity, StageUse

LOST = Incident("lost", "worker 0 on item 3: ActorDiedError: gone", "10.0.0.3/ab", 3)


class Driver:
    """A driver that writes events with a clock of its own; most of them carry what `uses` holds next."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch, uses: list[Usage] | None = None) -> None:
        self.now_s = 1_000_000.0
        self.uses = uses or []
        driver = self

        class Clock(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:
                return datetime.fromtimestamp(driver.now_s, UTC)

        monkeypatch.setattr("cellsemi.orchestrator.events.datetime", Clock)
        self.log = EventLog(SilentWatcher(), path, lambda: self.now_s, take_usage=None if uses is None else self.take)
        self.activity = Activity(path, lambda: self.now_s)

    def take(self) -> Usage:
        return self.uses.pop(0) if self.uses else Usage(nodes={})


def used(seconds: float, lost: float = 0.0, gpus: float = 1.0, nodes: int = 1) -> Usage:
    """So many seconds of one worker with so many GPUs."""
    each = Seconds(seconds, computing=seconds - lost, lost=lost)
    return Usage(each, Seconds().plus(each, gpus), {f"n{i}": NodeLoad(1, gpus) for i in range(nodes)}, 4.0)


def test_each_second_goes_to_its_stage_and_a_restart_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    first = Driver(path, monkeypatch, [used(2), used(10, lost=3), used(1), used(5)])
    first.log.stage(1, "predict", 48, "images")  # 2 s before it
    first.log.incident(LOST)  # 10 s within it
    first.log.finish(11.0)
    first.log.note("between two")  # 5 s after it
    second = Driver(path, monkeypatch, [used(1, gpus=0), used(20, gpus=0)])
    second.log.stage(1, "predict", 24, "images")  # as after a kill: the stage goes on
    second.log.finish(20.0)
    found = second.activity
    found.follow()
    between, predict = found.use
    assert predict == StageUse(1, "predict", Seconds(31.0, computing=28.0, lost=3.0), Seconds(11, computing=8, lost=3))
    assert (between.stage, between.workers.reserved, between.gpus.reserved) == (BETWEEN, 8.0, 7.0)
    assert found.counts == {"lost": 1} and found.incidents[1, "lost"] == 1
    assert found.losses[0].message == LOST.message and found.losses[0].stage == "predict"
    assert found.nodes == {"n0": NodeLoad(1, 0.0)} and found.cluster_gpus == 4.0


def test_the_pace_is_that_of_the_last_minute_and_counts_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(tmp_path / "events.jsonl", monkeypatch)
    assert driver.activity.silent_s is None and driver.activity.current is None
    driver.log.stage(2, "train", 100, "steps")
    for done in range(10, 50, 10):
        driver.now_s += 5.0
        driver.log.advance(done)
    driver.activity.follow()
    now = driver.activity.current
    assert now is not None and (now.round, now.stage, now.done, now.total, now.unit) == (2, "train", 40, 100, "steps")
    assert now.rate == pytest.approx(2.0) and now.left_s == pytest.approx(30.0)
    driver.now_s += 12.0  # no news: the time left goes on
    later = driver.activity.current
    assert later is not None and later.left_s == pytest.approx(18.0) and driver.activity.silent_s == pytest.approx(12.0)
    driver.log.finish(20.0)
    driver.activity.follow()
    assert driver.activity.current is None


def test_only_what_costs_something_is_shown_as_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(tmp_path / "events.jsonl", monkeypatch)
    driver.log.stage(1, "predict", 48, "images")
    for item in range(9):
        driver.log.incident(Incident("requeued", f"item {item} goes to another worker", item=item))
        driver.log.incident(Incident("frozen", f"worker {item}", item=item))
    driver.activity.follow()
    assert [loss.message for loss in driver.activity.losses] == [f"worker {item}" for item in range(4, 9)]
    assert driver.activity.counts == {"frozen": 9, "requeued": 9}


@given(st.lists(st.integers(1, 200), max_size=40))
def test_read_in_pieces_it_says_the_same_as_read_at_once(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("events")
    whole, growing = folder / "whole.jsonl", folder / "growing.jsonl"
    uses = iter([used(2), used(7, lost=2), used(3), used(4), used(1)])
    log = EventLog(SilentWatcher(), whole, take_usage=lambda: next(uses))
    log.stage(0, "train", 10, "steps")
    log.incident(LOST)
    log.finish(3.0)
    log.stage(1, "predict", 4, "images")
    content = whole.read_bytes() + b'{"time": "2026-11-29, cut by a crash\n'
    whole.write_bytes(content)
    bit_by_bit, at_once = Activity(growing), Activity(whole)
    place, events = 0, []
    for cut in [*cuts, len(content)]:
        with growing.open("ab") as file:
            file.write(content[place : place + cut])
        place += cut
        events += bit_by_bit.follow()
    assert events == at_once.follow() and len(events) == 4
    for name in ("use", "losses", "counts", "nodes", "last"):
        assert getattr(bit_by_bit, name) == getattr(at_once, name)
    assert module.LOSSES[0] == "lost"


def test_the_log_says_where_workers_are_only_when_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    driver = Driver(path, monkeypatch, [used(1), used(1), used(1, nodes=2), Usage(nodes={"n0": NodeLoad(1)}), Usage()])
    driver.log.stage(1, "predict", 48, "images")
    for _ in range(3):
        driver.log.note("something")
    driver.now_s += 2.0
    driver.log.advance(5)  # too early to carry it
    events = driver.activity.follow()
    nodes = [None if event.usage is None or event.usage.nodes is None else len(event.usage.nodes) for event in events]
    assert nodes == [1, None, 2, 1, None] and events[-1].usage is None
    driver.now_s += 10.0
    driver.uses = [used(12)]
    driver.log.advance(6)
    (last,) = driver.activity.follow()
    assert last.usage is not None and last.usage.workers.reserved == 12.0
