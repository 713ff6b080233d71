"""What is decided before Ray is asked: which address, and whether a folder is shared."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cellsemi.configs.errors import EngineError
from cellsemi.orchestrator.engine.ray_start import (
    LEFTOVER_FILE,
    Leftover,
    Probe,
    folder_problem,
    start_ray,
    sweep_leftover,
)


@pytest.mark.parametrize("address", ["auto", "ray://head:10001", "http://head:8265", "head", "head:port"])
def test_only_a_named_head_is_joined(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"the address is .* expected host:port .* ray job submit"):
        start_ray(address, tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(EngineError, match=r"RAY_ADDRESS is .* expected host:port"):
        start_ray(None, tmp_path)


def test_where_nothing_listens_the_answer_comes_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # taken and not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EngineError, match=f"{address}: no Ray can be reached there"):
            start_ray(address, tmp_path)


def test_an_address_given_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://other:1")
    with pytest.raises(EngineError, match=r"the address is 'ray://mine:1'"):
        start_ray("ray://mine:1", tmp_path)


def test_a_ray_that_is_already_set_up_otherwise_is_not_opened_to_others(tmp_path: Path) -> None:
    code = """
import sys, types
from pathlib import Path
from cellsemi.configs.errors import EngineError
from cellsemi.orchestrator.engine.ray_start import start_ray
sys.modules["ray"] = types.ModuleType("ray")  # stands for a Ray imported by somebody else
try:
    start_ray("local", Path(sys.argv[1]))
except EngineError as error:
    print(error)
"""
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True, check=True
    )
    assert "Ray was imported before cellsemi could close it to other machines" in done.stdout


def test_a_folder_is_shared_when_the_same_file_is_seen_and_it_can_be_written(tmp_path: Path) -> None:
    probe = Probe(str(tmp_path / "probe"), "abc")
    assert "cannot work in" in folder_problem(probe)
    Path(probe.path).write_text("of another run")
    assert folder_problem(probe) == f"sees another {tmp_path} than the driver"
    Path(probe.path).write_text("abc")
    assert folder_problem(probe) == ""
    assert [path.name for path in tmp_path.iterdir()] == ["probe"]


def test_what_a_killed_call_left_of_its_own_ray_is_swept_at_the_next_start(tmp_path: Path) -> None:
    run, ours, foreign = (tmp_path / name for name in ("run", "ray/session_1", "documents"))
    for folder in (run, ours, foreign):
        folder.mkdir(parents=True)
    sweep_leftover(run)
    Leftover(ours, run / LEFTOVER_FILE).note()
    sweep_leftover(run)
    assert not ours.exists() and list(run.iterdir()) == []
    Leftover(foreign, run / LEFTOVER_FILE).note()  # not a folder of Ray: somebody wrote this file
    sweep_leftover(run)
    assert foreign.is_dir()
