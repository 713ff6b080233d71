"""The command as a user gives it, with the real model: in-process, on Ray, killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.campaigns import PLAIN, tables
from helpers.terminal import MAIN, cellsemi

from cellsemi.orchestrator.engine.ray_start import LEFTOVER_FILE
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.store.files import read_json
from cellsemi.rounds.store.lock import read_holder
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.run import RunPaths

LIMITS = "{accept: 0.0, reject: 0.0}"  # whatever these hardly trained models see is taken
SETTINGS = [
    *PLAIN, "data.classes=[cort]", "data.generated.labelled=2", "data.generated.unlabelled=4", "data.generated.val=2",
    "data.generated.test=2", "data.generated.height_px=64", "data.generated.width_px=80", "data.shard_images=2",
    "models.0.width=4", "models.1.width=4", "training.steps=30", "training.batch=2", "training.crop_px=64",
    "engine.checkpoint_s=0", "training.lr=0.02", "inference.tta=[identity]", "inference.cell_probability=0.3",
    "training.precision=float32", f"filter.thresholds={{cort: {LIMITS}}}", "rounds.promotion.bootstrap=100",
    "engine.min_free_mb=0",
]  # fmt: skip


def command(engine: str, n: int = 1) -> list[str]:
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    return ["round", "--n", str(n), "--config", "demo", "--run", "small", "--engine", engine, *sets]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = cellsemi(*command("inline"), cwd=folder)
    assert done.returncode == 0, done.stderr
    return RunPaths(folder / "runs" / "small")


def test_the_rounds_really_used_pseudo_labels(undisturbed: RunPaths) -> None:
    rows = {(row.round, row.model): row for row in leaderboard.read(undisturbed.leaderboard)}
    assert rows[1, "unet-a"].accepted > 0
    assert (1, "control") in rows and rows[1, "unet-a"].vs_control is not None
    steps = [read_fit(undisturbed.model(1, name)).steps for name in ("unet-a", "control")]
    assert steps == [30, 60]


def test_killed_at_any_moment_it_goes_on_to_the_same_tables(undisturbed: RunPaths, tmp_path: Path) -> None:
    """kill -9 in round 0's training, then in round 1's, then let it end."""
    paths = RunPaths(tmp_path / "runs" / "small")
    for round in (0, 1):
        kill_when(paths.model(round, "unet-b") / "checkpoint.safetensors", tmp_path)
        assert read_holder(paths) is None
    done = cellsemi(*command("inline"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert tables(paths) == tables(undisturbed)


def kill_when(path: Path, folder: Path) -> None:
    """Start the command and kill -9 it as soon as `path` is there."""
    with (folder / "out.txt").open("ab") as out:
        process = subprocess.Popen([sys.executable, "-c", MAIN, *command("inline")], cwd=folder, stdout=out, stderr=out)
        deadline = time.monotonic() + 600
        while not path.is_file():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, f"{path} did not appear"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


@pytest.mark.ray
def test_on_ray_it_ends_with_the_same_tables(undisturbed: RunPaths, tmp_path: Path) -> None:
    done = cellsemi(*command("ray"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "engine: local Ray" in done.stderr
    assert "raylet" not in done.stdout + done.stderr, "Ray's own lines belong into the log"
    assert tables(RunPaths(tmp_path / "runs" / "small")) == tables(undisturbed)


CLUSTER = """
from ray.cluster_utils import Cluster
small = {"include_dashboard": False, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **small})
print("ADDRESS", cluster.address, flush=True)
input()
cluster.shutdown()
"""


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """That of a cluster of one node, or "" for a Ray of the run's own."""
    if not request.param:
        yield ""
        return
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )  # a process of its own: this one must not have imported ray
    assert cluster.stdout is not None
    yield next(line.split()[1] for line in cluster.stdout if line.startswith("ADDRESS"))
    cluster.communicate("end\n")


@pytest.mark.ray
@pytest.mark.parametrize("address", [False, True], indirect=True, ids=["own", "cluster"])
def test_sigterm_on_ray_ends_with_143_a_last_checkpoint_and_nothing_left_over(tmp_path: Path, address: str) -> None:
    more = ["--set", "training.steps=100000", "--set", "engine.checkpoint_s=10000"]
    more += ["--set", "engine.input_processes=1"]  # they end as well
    more += ["--address", address, "--grace", "25"] if address else []
    paths = RunPaths(tmp_path / "runs" / "small")
    with (tmp_path / "out.txt").open("wb") as out:
        called = [sys.executable, "-c", MAIN, *command("ray"), *more]
        process = subprocess.Popen(called, cwd=tmp_path, stdout=out, stderr=out)
        deadline = time.monotonic() + 600
        while not (paths.model(0, "unet-b") / "progress.json").is_file():
            assert process.poll() is None, "it ended before it could be told to"
            assert time.monotonic() < deadline, "no training began"
            time.sleep(0.05)
        session = None if address else Path(read_json(paths.root / LEFTOVER_FILE)["folder"])
        assert session is None or session.is_dir()
        process.terminate()
        assert process.wait(timeout=120) == 143
    said = (tmp_path / "out.txt").read_text()
    assert "Terminated. What is done is kept" in said and "Error" not in said
    assert (paths.model(0, "unet-b") / "checkpoint.safetensors").is_file()
    assert read_holder(paths) is None
    assert session is None or (not session.exists() and not (paths.root / LEFTOVER_FILE).exists())


def test_a_second_call_does_nothing(undisturbed: RunPaths) -> None:
    before = undisturbed.leaderboard.with_suffix(".parquet").stat().st_mtime_ns
    done = cellsemi(*command("ray"), cwd=undisturbed.root.parent.parent)
    assert done.returncode == 0 and "Nothing to do" in done.stderr
    assert undisturbed.leaderboard.with_suffix(".parquet").stat().st_mtime_ns == before
