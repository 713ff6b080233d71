"""Progress: the pace, what plain and live watchers print, and an event log that survives a crash."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from cellsemi.orchestrator.engine.protocol import Incident
from cellsemi.orchestrator.events import EventLog, SilentWatcher, Watcher, read_events
from cellsemi.orchestrator.runs.pace import Pace
from cellsemi.orchestrator.terminal.watchers import LiveWatcher, PlainWatcher, open_watcher
from cellsemi.rounds.duration import duration


class Clock:
    """Seconds that pass only when a test sets them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Recorder(SilentWatcher):
    """Keeps the calls that it received."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def stage(self, round: int, name: str, total: int, unit: str) -> None:
        self.calls.append(("stage", round, name, total, unit))

    def advance(self, done: int) -> None:
        self.calls.append(("advance", done))

    def note(self, message: str) -> None:
        self.calls.append(("note", message))

    def incident(self, incident: Incident) -> None:
        self.calls.append(("incident", incident))

    def finish(self, seconds: float) -> None:
        self.calls.append(("finish", seconds))

    def skipped(self, round: int, name: str) -> None:
        self.calls.append(("skipped", round, name))


def play(watcher: Watcher, clock: Clock) -> None:
    """A campaign in small: a stage done before, a stage of 10 images at 2 a second, a decision."""
    watcher.skipped(0, "read images")
    watcher.stage(1, "predict [val]", 10, "images")
    for done in range(2, 11, 2):
        clock.now += 1
        watcher.advance(done)
    watcher.finish(5.0)
    watcher.note("round 1 is promoted")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "0 s"), (9.44, "9.4 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (3600, "1 h 00 min")],
)
def test_durations_read_naturally(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_pace_is_units_over_seconds() -> None:
    clock = Clock()
    pace = Pace(100, "images", clock)
    assert pace.words() == "" and pace.remaining_s() is None
    for second in range(1, 11):
        clock.now = 100 + second
        pace.advance(4 * second)
    assert pace.rate() == pytest.approx(4.0)
    assert pace.remaining_s() == pytest.approx(60 / 4)
    clock.now += 5  # no news for five seconds: the time left runs down, the rate stays
    assert pace.remaining_s() == pytest.approx(10)
    assert pace.words() == "4.0/s, 10 s left"


def test_work_found_done_is_not_speed() -> None:
    clock = Clock()
    pace = Pace(100, "images", clock)
    pace.advance(90)
    clock.now += 10
    pace.advance(95)
    assert pace.rate() == pytest.approx(0.5)
    assert pace.remaining_s() == pytest.approx(10)


def test_the_pace_forgets_what_is_older_than_its_window() -> None:
    clock = Clock()
    pace = Pace(10_000, "steps", clock)
    for _ in range(200):
        clock.now += 1
        pace.advance(pace.done + 1)
    for _ in range(200):
        clock.now += 1
        pace.advance(pace.done + 10)
    assert pace.rate() == pytest.approx(10)


def test_progress_never_goes_back() -> None:
    clock = Clock()
    pace = Pace(10, "images", clock)
    pace.advance(6)
    pace.advance(4)
    assert pace.done == 6


def test_plain_lines_are_few_and_complete() -> None:
    clock, stream = Clock(), io.StringIO()
    play(PlainWatcher(stream, clock), clock)
    assert stream.getvalue().splitlines() == [
        "round 0: read images: was done before",
        "round 1: predict [val]: 10 images",
        "round 1: predict [val]: done in 5 s",
        "  round 1 is promoted",
    ]


def test_plain_lines_come_at_most_every_ten_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    watcher = PlainWatcher(stream, clock)
    watcher.stage(2, "train", 100, "steps")
    for step in range(1, 36):
        clock.now += 1
        watcher.advance(step)
    assert stream.getvalue().splitlines()[1:] == [
        "round 2: train: 10 of 100 steps, 1.0/s, 1 min 30 s left",
        "round 2: train: 20 of 100 steps, 1.0/s, 1 min 20 s left",
        "round 2: train: 30 of 100 steps, 1.0/s, 1 min 10 s left",
    ]


def test_live_keeps_a_line_for_each_finished_stage() -> None:
    clock, stream = Clock(), io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None)
    with LiveWatcher(console, clock) as watcher:
        play(watcher, clock)
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    for expected in (
        "round 0  read images  was done before",
        "round 1  predict [val]  10 images in 5 s",
        "round 1 is promoted",
    ):
        assert any(line.endswith(expected) for line in lines), expected


def test_live_gives_the_cursor_back_on_interruption() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    with pytest.raises(KeyboardInterrupt), LiveWatcher(console) as watcher:
        watcher.stage(1, "train", 10, "steps")
        raise KeyboardInterrupt
    hidden, shown = stream.getvalue().rfind("\x1b[?25l"), stream.getvalue().rfind("\x1b[?25h")
    assert 0 <= hidden < shown


def test_the_stream_decides_the_watcher() -> None:
    stream = io.StringIO()
    with open_watcher(stream) as watcher:
        assert isinstance(watcher, PlainWatcher)
    with open_watcher(stream, silent=True) as watcher:
        play(watcher, Clock())
    assert stream.getvalue() == ""


def test_every_event_is_written_and_passed_on(tmp_path: Path) -> None:
    clock, seen, bare = Clock(), Recorder(), Recorder()
    path = tmp_path / "run" / "events.jsonl"
    play(EventLog(seen, path, clock), clock)
    play(bare, Clock())
    assert seen.calls == bare.calls
    events = list(read_events(path))
    assert [event.event for event in events] == ["skipped", "stage", *["advance"] * 5, "finish", "note"]
    assert [(e.done, e.total) for e in events if e.event == "advance"] == [(n, 10) for n in range(2, 11, 2)]
    finish = events[-2]
    assert (finish.round, finish.stage, finish.unit, finish.seconds) == (1, "predict [val]", "images", 5.0)
    assert events[-1].message == "round 1 is promoted"


def test_fast_stages_do_not_flood_the_log(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "events.jsonl"
    log = EventLog(SilentWatcher(), path, clock)
    log.stage(1, "train", 5000, "steps")
    for step in range(1, 5001):
        clock.now += 0.001
        log.advance(step)
        log.advance(step)
    advances = [event.done for event in read_events(path) if event.event == "advance"]
    assert len(advances) <= 6 and advances[-1] == 5000


def test_an_incident_is_an_event_and_a_line(tmp_path: Path) -> None:
    recorder, stream = Recorder(), io.StringIO()
    incident = Incident("retried", "item 4 is tried again: OSError: gone", "10.0.0.3/ab12cd34", 4)
    for watcher in (recorder, PlainWatcher(stream)):
        log = EventLog(watcher, tmp_path / "events.jsonl")
        log.stage(2, "train", 5, "steps")
        log.incident(incident)
    _, event, *_ = read_events(tmp_path / "events.jsonl")
    assert (event.event, event.round, event.stage) == ("incident", 2, "train")
    assert Incident(event.incident, event.message, event.node, event.item) == incident  # type: ignore[arg-type]
    assert recorder.calls[-1] == ("incident", incident)
    assert stream.getvalue().endswith("  retried: item 4 is tried again: OSError: gone (node 10.0.0.3/ab12cd34)\n")


def test_a_cut_line_is_skipped_and_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(SilentWatcher(), path).stage(1, "train", 5, "steps")
    with path.open("ab") as file:
        file.write('{"time": "2026-11-21", "event": "adv Zürich'.encode()[:-4])
    assert [event.event for event in read_events(path)] == ["stage"]
    EventLog(SilentWatcher(), path).note("again")
    assert [event.event for event in read_events(path)] == ["stage", "note"]
    assert all(json.loads(line) for line in (path.read_bytes().splitlines()[0], path.read_bytes().splitlines()[-1]))


def test_no_log_means_no_events(tmp_path: Path) -> None:
    assert list(read_events(tmp_path / "none.jsonl")) == []
