"""The command line as a person meets it: start-up, exit codes, messages, interruption, and a finished run."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.terminal import cellsemi, python

from cellsemi.configs.errors import CellsemiError, ConfigError, RunError
from cellsemi.orchestrator.cli.main import cli


def test_the_command_line_is_this() -> None:
    options = {
        name: sorted(option for parameter in command.params for option in parameter.opts)
        for name, command in cli.commands.items()
    }
    shared, configured = ["--debug", "--json"], ["--config", "--set"]
    applied = ["--model", "--min-score", "--min-area", "--engine", "--address", "--device"]
    assert options == {
        "data": [],
        "models": sorted(shared),
        "weights": [],
        "ablate": sorted([*shared, *configured, "--n", "--seed", "--part", "--list", "--run", "--engine", "--address"]),
        "app": sorted(["--debug", "--model", "--device", "--port", "--open", "run"]),
        "round": sorted(
            [
                *shared,
                *configured,
                "--n",
                "--run",
                "--engine",
                "--address",
                "--grace",
                "--dry-run",
                "--accept-changes",
                "--take-new",
            ]
        ),
        "cluster": [],
        "review": sorted([*shared, "--top", "--out", "--format", "--take", "--as", "run"]),
        "leaderboard": sorted([*shared, "run"]),
        "status": sorted([*shared, "--watch", "--interval", "run"]),
        "report": sorted([*shared, "--open", "--out", "run"]),
        "init": sorted(["--debug", "--out", "--set", "--full", "--force", "what"]),
        "doctor": sorted([*shared, "--measure"]),
        "flows": sorted([*shared, *configured, "--limit", "folder"]),
        "model": [],
        "predict": sorted([*shared, *applied, "--out", "--format", "--run", "images"]),
        "submit": sorted([*shared, *applied, "--out", "--images", "--order", "--competition", "--force", "run"]),
        "explain": sorted([*shared, *applied[:3], applied[-1], "--run", "--round", "--out", "image"]),
        "evaluate": sorted(
            [*shared, *configured, *applied[:3], applied[-1], "--run", "--masks", "--split", "--include-seen", "data"]
        ),
    }


# --- exit codes and messages ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["round"], "Missing option '--n'"),
        (["round", "--n", "-1"], "x>=0"),
        (["round", "--n", "1", "--engine", "dask"], "'dask' is not one of 'ray', 'inline'"),
        (["round", "--n", "1", "--config", "dmo"], "did you mean 'demo'"),
        (["round", "--n", "1", "--set", "training.stepps=1"], "did you mean 'training.steps'"),
        (["leaderboard"], "no run below ./runs"),
        (["status", "nothing"], "no run is called 'nothing'"),
        (["init", "dmo"], "no preset is called 'dmo'"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_wrong_usage_is_two_and_one_message_on_standard_error(here: Path, args: list[str], words: str) -> None:
    done = cellsemi(*args, cwd=here)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("ask", [["--debug"], []], ids=["option", "variable"])
def test_debug_shows_the_traceback(here: Path, monkeypatch: pytest.MonkeyPatch, ask: list[str]) -> None:
    if not ask:
        monkeypatch.setenv("CELLSEMI_DEBUG", "1")
    done = cellsemi("status", *ask, cwd=here)
    assert done.returncode == 2 and "Traceback" in done.stderr


FAIL = """
import sys
from cellsemi.configs.errors import *
from cellsemi.orchestrator.cli import main as cli
def fail(*_, **__):
    {body}
cli._drive = fail
cli.main(["round", "--n", "1", "--engine", "inline", *sys.argv[1:]])
"""


def test_a_failure_on_purpose_is_one_and_its_message(here: Path) -> None:
    done = python(FAIL.format(body="raise RunError('the disk is full')"), cwd=here)
    assert (done.returncode, done.stderr, done.stdout) == (1, "Error: the disk is full\n", "")


def test_an_unknown_failure_leaves_its_traceback_in_the_log_of_the_run(here: Path) -> None:
    done = python(FAIL.format(body="raise ZeroDivisionError('a bug')"), cwd=here)
    log = here / "runs" / "demo" / "run.log"
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "a bug" in done.stderr and str(log.resolve()) in done.stderr
    assert "Traceback" in log.read_text() and "ZeroDivisionError: a bug" in log.read_text()


def test_an_unknown_failure_with_debug_shows_its_traceback(here: Path) -> None:
    done = python(FAIL.format(body="raise ZeroDivisionError('a bug')"), "--debug", cwd=here)
    assert done.returncode == 1 and "ZeroDivisionError: a bug" in done.stderr and "Traceback" in done.stderr


def test_an_unknown_failure_without_a_run_says_where_its_traceback_is(here: Path) -> None:
    code = """
from cellsemi.orchestrator.cli import main as cli
from cellsemi.orchestrator.runs import find_run
def fail(*_): raise ZeroDivisionError("a bug")
find_run.find_run = fail
cli.main(["status"])
"""
    done = python(code, cwd=here)
    (path,) = (Path(word) for word in done.stderr.replace(";", " ").split() if word.endswith(".log"))
    assert done.returncode == 1 and "ZeroDivisionError: a bug" in path.read_text()
    path.unlink()


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")]
)
def test_a_signal_ends_with_one_line_that_says_how_to_go_on(here: Path, number: int, code: int, word: str) -> None:
    body = "print('ready', flush=True); import time; time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", FAIL.format(body=body)],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert errors.strip() == f"{word}. What is done is kept: the same command goes on where it stopped."


def test_every_error_of_ours_has_its_exit_code() -> None:
    assert (CellsemiError("").exit_code, RunError("").exit_code, ConfigError("").exit_code) == (1, 1, 2)


# --- round ------------------------------------------------------------------------------------------

TINY = {
    "models": "[{name: small, width: 4}]",
    "training.steps": 2,
    "training.batch": 1,
    "training.crop_px": 32,
    "data.classes": "[cell]",
    "data.generated.labelled": 1,
    "data.generated.unlabelled": 2,
    "data.generated.val": 1,
    "data.generated.test": 1,
    "data.generated.height_px": 64,
    "data.generated.width_px": 64,
}


def test_round_goes_from_nothing_to_a_leaderboard(here: Path) -> None:
    settings = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    done = cellsemi("round", "--n", "1", "--engine", "inline", "--run", "tiny", *settings, cwd=here)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert said[0].startswith("config: ") and said[1] == f"run:    {(here / 'runs' / 'tiny').resolve()}"
    assert said[2] == "engine: in-process"
    assert "round 1: train small, control: done in" in done.stderr
    assert "Not shown at this width" in done.stdout and "leaderboard.md" in done.stdout
    status = json.loads(cellsemi("status", "--json", cwd=here).stdout)
    assert status["finished_rounds"] == [0, 1] and all(s["state"] == "done" for s in status["stages"])
    again = cellsemi("round", "--n", "1", "--run", "tiny", "--json", cwd=here)  # nothing to repeat
    assert again.returncode == 0 and again.stderr == ""
    assert {row["model"] for row in json.loads(again.stdout)["rows"]} == {"small", "ensemble", "control"}
