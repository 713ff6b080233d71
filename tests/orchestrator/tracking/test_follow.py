"""What a run writes is told to its trackers: once, live, after a crash too, and whatever a tracker does."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.applied import small_run
from helpers.campaigns import Notes, bring, config_at
from helpers.remembering import Remembering
from helpers.terminal import invoke

from cellsemi.configs.errors import UsageError
from cellsemi.configs.schema import Config
from cellsemi.models.model_files import LIVE_FILE, LOSS_FILE, MODEL_FILE, PARTS, USAGE_FILE, VALIDATION_FILE
from cellsemi.orchestrator.tracking import follow
from cellsemi.orchestrator.tracking.follow import Follower, check_trackers, followed
from cellsemi.orchestrator.tracking.points import MOST_POINTS
from cellsemi.orchestrator.tracking.protocol import Place, Point, Tracker
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.store.run import RunPaths

pytestmark = pytest.mark.trackers
ONE = Config.model_validate({"tracking": ["wandb"]})
BOTH = Config.model_validate({"tracking": ["wandb", "mlflow"]})


class Told:
    """Followers of a run whose trackers remember."""

    def __init__(self, paths: RunPaths, config: Config = ONE, fails_at: dict[str, int] | None = None) -> None:
        self.trackers: dict[str, Remembering] = {}
        self._fails_at = fails_at or {}
        self.follower = Follower(config, paths, self._open)

    def _open(self, name: str, place: Place) -> Tracker:
        self.trackers[name] = Remembering(place, self._fails_at.get(name))
        return self.trackers[name]

    def look(self, ended: bool = True) -> list[Point]:
        """What the tracker is told by one more look."""
        before = self.points()
        self.follower.look(ended)
        return self.points()[len(before) :]

    def points(self) -> list[Point]:
        return list(self.trackers["wandb"].points) if "wandb" in self.trackers else []


def training(root: Path, name: str = "unet-a") -> Path:
    folder = root / "round-00" / "students" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def live(folder: Path, *rows: tuple[int, float], steps: int = 100) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LIVE_FILE).open("a") as file:
        file.writelines(f'{{"step":{step},"steps":{steps},"metrics":{{"loss":{loss}}}}}\n' for step, loss in rows)


def finish(folder: Path, steps: int) -> None:
    """A finished curve: loss 1 / step, validation and usage at the end."""
    losses = {"step": range(1, steps + 1), "loss": 1 / np.arange(1, steps + 1)}
    pq.write_table(pa.table(losses), folder / LOSS_FILE)
    pq.write_table(pa.table({"step": [steps], "loss": [0.25], "flow_loss": [0.125]}), folder / VALIDATION_FILE)
    (folder / USAGE_FILE).write_text(f'{{"step": {steps}, "seconds": 9.5, "device_memory_mb": null}}\n')
    (folder / MODEL_FILE).write_text("{}")
    (folder / LIVE_FILE).unlink(missing_ok=True)


def test_a_curve_is_told_while_it_grows_and_the_rest_at_its_end(tmp_path: Path) -> None:
    told, folder = Told(RunPaths(tmp_path)), training(tmp_path)
    live(folder, (1, 1.0), (7, 1 / 7))
    assert [(p.round, p.model, p.step, dict(p.metrics)) for p in told.look()] == [
        (0, "unet-a", 1, {"loss": 1.0}),
        (0, "unet-a", 7, {"loss": 1 / 7}),
    ]
    assert told.look() == []
    live(folder, (9, 1 / 9))
    with (folder / LIVE_FILE).open("a") as file:
        file.write('{"step":12,"st')  # a line that is being written
    assert [p.step for p in told.look()] == [9]
    finish(folder, 12)
    rest = told.look()
    assert [p.step for p in rest] == [10, 11, 12]
    assert dict(rest[-1].metrics) == pytest.approx(
        {"loss": 1 / 12, "validation_loss": 0.25, "validation_flow_loss": 0.125, "seconds": 9.5}
    )
    assert told.look() == [] and told.follower.notes == []


def test_parts_of_a_training_count_on(tmp_path: Path) -> None:
    told, folder = Told(RunPaths(tmp_path)), training(tmp_path)
    live(folder / PARTS / "500", (500, 0.5), steps=500)
    live(folder / PARTS / "1000", (3, 0.4), steps=500)  # the steps 501 to 1000
    assert sorted(p.at for p in told.look()) == [500, 503]


def test_a_long_curve_is_thinned_and_a_retrained_one_told_again(tmp_path: Path) -> None:
    told, folder = Told(RunPaths(tmp_path)), training(tmp_path)
    finish(folder, 5000)
    steps = [p.at for p in told.look()]
    assert len(steps) <= MOST_POINTS + 1 and steps[0] == 1 and steps[-1] == 5000 and steps == sorted(set(steps))
    finish(folder, 20)
    assert [p.at for p in told.look()] == list(range(1, 21))


def test_the_next_call_tells_the_rest_and_a_new_tracker_everything(tmp_path: Path) -> None:
    first, folder = Told(RunPaths(tmp_path)), training(tmp_path)
    finish(folder, 3)
    assert len(first.look()) == 3
    finish(training(tmp_path, "unet-b"), 2)
    second = Told(RunPaths(tmp_path), BOTH)
    assert [p.model for p in second.look()] == ["unet-b"] * 2
    assert [p.model for p in second.trackers["mlflow"].points] == ["unet-a"] * 3 + ["unet-b"] * 2
    places = (first.trackers["wandb"].place, second.trackers["wandb"].place)
    assert places[0].run_id == places[1].run_id and places[0].folder == tmp_path / "tracking" / "wandb"
    assert "training.lr" in places[0].settings and not any(key.startswith("engine") for key in places[0].settings)


def test_a_tracker_that_fails_is_left_alone_and_the_others_go_on(tmp_path: Path) -> None:
    told = Told(RunPaths(tmp_path), BOTH, fails_at={"wandb": 2})
    finish(training(tmp_path), 5)
    told.follower.look()
    told.follower.look()
    told.follower.close()
    assert len(told.trackers["wandb"].points) == 2 and len(told.trackers["mlflow"].points) == 5
    (note,) = told.follower.notes
    assert "wandb failed" in note and "ConnectionError: the server is gone" in note
    again = Told(RunPaths(tmp_path), BOTH)  # the next call
    assert [p.at for p in again.look()] == [1, 2, 3, 4, 5] and "mlflow" not in again.trackers


def test_what_cannot_be_read_yet_is_read_later(tmp_path: Path) -> None:
    told, folder = Told(RunPaths(tmp_path)), training(tmp_path)
    finish(folder, 2)
    (folder / LOSS_FILE).write_bytes(b"half a table")
    assert told.look() == []
    finish(folder, 2)
    assert len(told.look()) == 2
    told.follower.close()
    assert told.follower.notes == [] and told.trackers["wandb"].closed == 1


def test_scores_and_pictures_of_the_rounds_are_told(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    shutil.rmtree(paths.tracking, ignore_errors=True)
    told = Told(paths)
    first = [p for p in told.look(ended=False) if p.step is None]
    assert {p.round for p in first} == {0}  # the pictures of the last round may not be drawn yet
    scores = first + [p for p in told.look() if p.step is None]
    rows = leaderboard.read(paths.leaderboard)
    assert [(p.round, p.model) for p in scores] == [(row.round, row.model) for row in rows]
    for point, row in zip(scores, rows, strict=True):
        assert point.metrics["val_map"] == row.val_map.value and point.metrics["promoted"] == float(row.promoted)
        assert point.at == row.round
    pictures = [content for p in scores for content in p.pictures.values()]
    assert len(pictures) == 2 and all(content.startswith(b"\x89PNG") for content in pictures)
    assert {p.prefix for p in scores} >= {"scores/ensemble", "scores/unet-a"}


def test_a_campaign_tells_its_trackers(here: Path, fake_models: None, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = dict[str, Remembering]()
    monkeypatch.setattr(follow, "opened", lambda name, place: opened.setdefault(name, Remembering(place)))
    bring(config_at(here, "tracking=[tensorboard]"), 0)
    points = opened["tensorboard"].points
    assert {p.model for p in points if p.step is not None} == {"unet-a", "unet-b"}
    assert any(p.step is None for p in points) and opened["tensorboard"].closed == 1
    before = len(points)
    bring(config_at(here, "tracking=[tensorboard]"), 0)
    assert len(points) == before  # nothing is new


def test_a_tracker_never_ends_a_run(here: Path, fake_models: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str, place: Place) -> Tracker:
        raise PermissionError("no")

    monkeypatch.setattr(follow, "opened", refused)
    watcher = Notes()
    paths, _ = bring(config_at(here, "tracking=[tensorboard]"), 0, watcher)
    assert paths.finished_rounds() == [0]
    assert len([note for note in watcher.notes if "tensorboard failed" in note]) == 1


def test_a_slow_tracker_is_left_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    free = threading.Event()
    monkeypatch.setattr(Follower, "look", lambda self, ended=False: free.wait(60))
    monkeypatch.setattr(follow, "PATIENCE_S", 0.05)
    notes: list[str] = []
    with followed(Config(), RunPaths(tmp_path), notes.append):
        pass
    free.set()
    assert len(notes) == 1 and "the next call tells the rest" in notes[0]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"trackio needs the package 'trackio': pip install 'cellsemi\[trackio\]'"):
        check_trackers(Config.model_validate({"tracking": ["trackio"]}).tracking)
    check_trackers(Config.model_validate({"tracking": []}).tracking)


def test_the_command_refuses_before_it_works(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "find_spec", lambda name: None)
    done = invoke("round", "--n", "0", "--engine", "inline", "--set", "tracking=[mlflow]")
    assert "pip install 'cellsemi[mlflow]'" in str(done.exception)
    with contextlib.suppress(FileNotFoundError):
        assert not list((here / "runs" / "demo").glob("round-*"))
