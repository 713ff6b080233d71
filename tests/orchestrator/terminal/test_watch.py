"""A run that is followed: lines of what changed, JSON for each look, and a live view that ends with Ctrl-C."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.terminal import MAIN, invoke

from cellsemi.configs.errors import RunError
from cellsemi.configs.loading import load_config
from cellsemi.orchestrator.engine.protocol import Incident
from cellsemi.orchestrator.engine.usage import NodeLoad, Seconds, Usage
from cellsemi.orchestrator.events import EventLog, SilentWatcher
from cellsemi.orchestrator.terminal import watch
from cellsemi.orchestrator.terminal.watch import PATIENCE
from cellsemi.rounds.store.lock import driver_lock
from cellsemi.rounds.store.run import RunPaths, open_run

LOST = Incident("lost", "worker 0 on item 3: ActorDiedError: gone", "10.0.0.3/ab", 3)
USED = Usage(Seconds(90, computing=60), Seconds(90, 5, 60, 10), {"10.0.0.3/ab": NodeLoad(2, 2.0)}, 4.0)


@pytest.fixture
def paths(here: Path) -> RunPaths:
    return open_run(load_config("demo", []).config)


@pytest.fixture
def at_work(paths: RunPaths) -> Iterator[EventLog]:
    """A driver that holds the run and predicts."""
    with driver_lock(paths):
        uses = iter([USED])
        log = EventLog(SilentWatcher(), paths.events, take_usage=lambda: next(uses, Usage(nodes=USED.nodes)))
        log.stage(1, "predict unlabelled with unet-a", 48, "images")
        yield log


def followed(paths: RunPaths, monkeypatch: pytest.MonkeyPatch, steps: list[object], as_json: bool = False) -> list[str]:
    """The lines of a watch, between whose looks the `steps` are called; then comes Ctrl-C."""
    stream = io.StringIO()
    rest = iter(steps)

    def sleep(_: float) -> None:
        step = next(rest, None)
        if step is None:
            raise KeyboardInterrupt
        step()  # type: ignore[operator]

    monkeypatch.setattr(time, "sleep", sleep)
    watch.watch(paths, 1.0, stream, as_json)
    return stream.getvalue().splitlines()


def test_without_a_terminal_it_is_lines_of_what_changed(
    paths: RunPaths, at_work: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = followed(paths, monkeypatch, [lambda: at_work.incident(LOST), lambda: None])
    stage = "demo: round 1, predict unlabelled with unet-a: 0 of 48 images"
    workers = "  2 workers on 1 node, 2 of 4 GPUs"
    assert lines[:2] == [stage, workers]
    assert lines[2].endswith(f" UTC  round 1, predict unlabelled with unet-a: {LOST}")
    assert lines[3:] == [stage, workers, "  incidents: 1 lost"]  # and nothing where nothing changed


def test_each_look_as_json_is_the_status(paths: RunPaths, at_work: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = map(json.loads, followed(paths, monkeypatch, [lambda: at_work.incident(LOST)], as_json=True))
    assert before["incidents"] == {} and after["incidents"] == {"lost": 1}
    assert after["losses"][0]["node"] == "10.0.0.3/ab" and after["current"]["total"] == 48
    assert after["workers"] == {"10.0.0.3/ab": {"workers": 2, "gpus": 2.0}} and after["cluster_gpus"] == 4.0
    assert after["gpu_seconds"] == {"reserved": 90, "starting": 5, "computing": 60, "lost": 10, "idle": 15}
    assert after["used"][0]["gpus"]["idle"] == 15 and set(after) == set(json.loads(invoke("status", "--json").output))


def test_status_shows_the_same_to_a_person(paths: RunPaths, at_work: EventLog) -> None:
    at_work.incident(LOST)
    text = invoke("status").output
    assert "now:       round 1, predict unlabelled with unet-a: 0 of 48 images" in text
    assert "workers:   2 workers on 1 node, 2 of 4 GPUs\n           10.0.0.3/ab: 2 workers, 2 GPUs" in text
    assert f"lost: {LOST.message} (node 10.0.0.3/ab)\n" in text and "incidents: 1 lost\n" in text
    assert "1 min 30 s of GPU time: computing 67%, starting 6%, idle 17%, lost 11%" in text


def test_workers_of_a_driver_that_is_gone_are_not_shown(paths: RunPaths) -> None:
    EventLog(SilentWatcher(), paths.events, take_usage=lambda: USED).stage(1, "train", 5, "steps")
    found = json.loads(invoke("status", "--json").output)
    assert found["working"] is False and found["workers"] == {} and found["gpu_seconds"]["reserved"] == 90
    assert "workers:" not in invoke("status").output


def test_a_run_that_changes_under_a_look_is_looked_at_again(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    real, turns = watch.read_status, iter([True, False, *[True] * PATIENCE])

    def read_status(*arguments: object) -> object:
        if next(turns):
            raise FileNotFoundError("moved aside")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(watch, "read_status", read_status)
    with pytest.raises(FileNotFoundError):
        followed(paths, monkeypatch, [lambda: None] * 9)
    assert next(turns, "all") == "all"
    monkeypatch.setattr(watch, "read_status", real)
    paths.config.write_text("")
    with pytest.raises(RunError, match="it is empty"):
        followed(paths, monkeypatch, [lambda: None] * 9)


def test_on_a_terminal_it_is_redrawn_and_ends_with_ctrl_c(paths: RunPaths, at_work: EventLog) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "status", "--watch", "--interval", "0.1"],
        stdin=follower, stdout=follower, stderr=follower, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(follower)
    shown = _read_until(leader, "0 of 48 images")
    at_work.incident(LOST)
    shown += _read_until(leader, "ActorDiedError: gone")
    process.send_signal(signal.SIGINT)
    shown += _read_until(leader, None)
    assert process.wait(timeout=30) == 0
    assert "Traceback" not in shown and "\x1b[" in shown and shown.rstrip().endswith("\x1b[?25h")  # the cursor is back


def _read_until(terminal: int, words: str | None) -> str:
    """What a terminal shows until it shows some words, or to its end."""
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline and (words is None or words not in shown.decode(errors="replace")):
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # its last process has ended
                return shown.decode(errors="replace")
            shown += part
    assert words is None or words in shown.decode(errors="replace"), shown.decode(errors="replace")
    return shown.decode(errors="replace")
