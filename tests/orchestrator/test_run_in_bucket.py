"""A whole run in a bucket: the tables of the same run in a folder, whatever happens on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import layouts
from helpers.applied import write_images, write_labels
from helpers.campaigns import SMALL, Notes, bring, config_at, tables
from helpers.s3_server import BUCKET, S3Server, s3_server, use_server
from helpers.terminal import cellsemi, invoke

from cellsemi.configs.errors import RunError
from cellsemi.configs.loading import load_config
from cellsemi.orchestrator.cluster import on_node
from cellsemi.orchestrator.engine.ray_start import Probe
from cellsemi.orchestrator.events import read_events
from cellsemi.orchestrator.runs.plan import adopt_steps
from cellsemi.orchestrator.runs.status import read_status
from cellsemi.rounds.datasets.open import list_data
from cellsemi.rounds.store import files
from cellsemi.rounds.store.lock import driver_lock
from cellsemi.rounds.store.run import RunPaths, open_run
from cellsemi.rounds.store.schemas import to_table
from cellsemi.rounds.store.shards import read_shard

ONE = "models=[{kind: flow-unet, name: unet-a}]"
SMALLEST = [
    *SMALL, "models=[{kind: flow-unet, name: unet-a, width: 4}]", "training.steps=4", "training.batch=2",
    "training.crop_px=64", "training.precision=float32", "inference.tta=[identity]", "inference.cell_probability=0.3",
]  # fmt: skip
DRIVER = """
import os, signal, sys
from helpers.campaigns import SMALL, Notes, bring, config_at
from cellsemi.models.registry import FAMILIES
from cellsemi.orchestrator.tracking.follow import Follower
from cellsemi.rounds.store.lock import driver_lock
from cellsemi.rounds.store.run import paths_of
FAMILIES["flow-unet"] = "helpers.fake_family"
Follower.look = lambda self, ended=False: None
class Killed(Notes):
    def _event(self):
        self.events += 1
        if self.events == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
config = config_at(sys.argv[1], sys.argv[2])
with driver_lock(paths_of(config)):
    bring(config, 1, Killed())
"""


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, which processes of this test use; the current folder is empty."""
    use_server(server, tmp_path / "copies", monkeypatch)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return server


def test_5xx_and_late_answers_change_nothing_in_a_run(
    fake_models: None, bucket: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hindered(Notes):
        def stage(self, round: int, name: str, total: int, unit: str) -> None:
            super().stage(round, name, total, unit)
            bucket.fail(1, 500 if self.events % 2 else 503)
            if self.events % 20 == 0:
                bucket.slow(1, 4.0, ["GET"])

    expected, _ = bring(config_at(tmp_path / "folder", ONE), 1)
    found, notes = bring(config_at(f"s3://{BUCKET}/hindered", ONE), 1, Hindered())
    assert tables(found) == tables(expected)
    assert bucket.counts()["failed"] > len(notes.begun)
    assert list(Path.cwd().iterdir()) == []  # nothing lies in a folder that is called s3:
    assert read_status(found).finished_rounds == (0, 1)
    assert [stage.name for stage in read_status(found).stages] == [stage.name for stage in read_status(expected).stages]


def test_a_killed_driver_is_followed_by_one_that_ends_with_the_same_tables(
    fake_models: None, bucket: S3Server, tmp_path: Path
) -> None:
    expected, notes = bring(config_at(tmp_path / "folder", ONE), 1)
    root = f"s3://{BUCKET}/killed"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", DRIVER, root, ONE, str(notes.events // 2)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    config = config_at(root, ONE)
    paths = RunPaths(files.place(root) / config.run.name)
    with driver_lock(paths):  # at once: it is known that the driver has ended
        found, resumed = bring(config, 1)
    assert resumed.skips and tables(found) == tables(expected)


def test_commands_read_a_run_in_a_bucket(fake_models: None, bucket: S3Server, tmp_path: Path) -> None:
    paths, _ = bring(config_at(f"s3://{BUCKET}/read", ONE), 0)
    for command in (["status"], ["leaderboard"], ["report"]):
        done = invoke(*command, str(paths.root))
        assert done.exit_code == 0, done.output
    assert (paths.root / "report.html").read_bytes().startswith(b"<!")
    done = invoke("data", "export", str(paths.root), "--format", "coco", "--out", str(tmp_path / "coco.json"))
    assert done.exit_code == 0 and (tmp_path / "coco.json").is_file(), done.output
    done = invoke("report", str(paths.root), "--out", f"s3://{BUCKET}/elsewhere")
    assert done.exit_code == 1 and "writes on this machine" in str(done.exception)
    (image,) = write_images(paths, "test", tmp_path / "images")[:1]
    done = invoke("predict", str(image), "--run", str(paths.root), "--out", str(tmp_path / "out"))
    assert done.exit_code == 0 and (tmp_path / "out" / "measurements.csv").is_file(), done.output
    write_images(paths, "test", tmp_path / "data")
    write_labels(paths, "test", tmp_path / "data")
    done = invoke("evaluate", str(tmp_path / "data"), "--run", str(paths.root))
    assert done.exit_code == 0, (done.output, done.exception)
    done = invoke("data", "check", str(paths.root))
    assert done.exit_code == 0, done.output
    shard = next(paths.split("val").glob("part-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-9] + b"?" * 9)
    done = invoke("data", "check", str(paths.root))
    assert done.exit_code == 1 and str(shard.relative_to(paths.root)) in done.output
    with pytest.raises(RunError, match="altered since it was written"):
        list(read_shard(shard))
    assert list(Path.cwd().iterdir()) == []


def test_a_run_takes_the_steps_of_another_in_the_bucket(fake_models: None, bucket: S3Server) -> None:
    first = config_at(f"s3://{BUCKET}/adopt", ONE)
    source, _ = bring(first, 0)
    second = config_at(f"s3://{BUCKET}/adopt", ONE, "run.name=second", "rounds.promotion.min_probability=0.7")
    target = open_run(second)
    assert adopt_steps(source, target, second) > 5
    found, resumed = bring(second, 0)
    assert resumed.begun == ["0: finish the round"]  # which reads the setting that differs
    assert resumed.skips and tables(found) == tables(source)


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_data_in_a_bucket_are_read_as_from_a_folder(name: str, bucket: S3Server, tmp_path: Path) -> None:
    root = files.place(f"s3://{BUCKET}/data/{name}")
    layouts.LAYOUTS[name](tmp_path / "data")
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            (root / path.relative_to(tmp_path / "data")).write_bytes(path.read_bytes())
    here, there = (
        list_data(load_config(name, [f"data.root={place}"]).config.data, 0) for place in (tmp_path / "data", root)
    )
    one, other = list(here.items), list(there.items)
    assert [item.image_id for item in one] == [item.image_id for item in other] and one
    for first, second in zip(one[::5], other[::5], strict=True):
        assert first.place.replace(str(tmp_path / "data"), "") == second.place.replace(str(root), "")
        assert to_table([first.load().record], "").equals(to_table([second.load().record], ""))


@pytest.mark.ray
def test_on_ray_workers_write_into_the_bucket(bucket: S3Server, tmp_path: Path) -> None:
    """With the real model; the same command in a folder, without Ray, gives the same tables."""
    sets = [part for setting in SMALLEST for part in ("--set", setting)]
    command = ["round", "--n", "0", "--config", "demo", "--run", "small", *sets]
    for more in (["--engine", "inline"], ["--engine", "ray", "--set", f"run.root=s3://{BUCKET}/ray"]):
        done = cellsemi(*command, *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "engine: local Ray" in done.stderr
    found, expected = (RunPaths(files.place(f"{root}/small")) for root in (f"s3://{BUCKET}/ray", tmp_path / "runs"))
    assert tables(found) == tables(expected)
    assert b"local Ray" in found.log.read_bytes() or found.log.is_file()
    assert [kind.event for kind in read_events(found.events)][-1] == "note"
    assert (tmp_path / "tracking-small" / "told.json").is_file()


def test_a_node_is_asked_whether_it_can_work_in_the_bucket(bucket: S3Server) -> None:
    folder = files.place(f"s3://{BUCKET}/check")
    files.write_text(folder / "probe", "abc")
    asked = on_node.Request(str(folder), Probe(str(folder / "probe"), "abc"), load_config("demo", []).config, ())
    with driver_lock(RunPaths(folder)):
        found = {finding.check: finding for finding in on_node.look(asked)}
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert {"run folder", "fsync", "lock", "models"} <= set(found) and "disk for the run" not in found
