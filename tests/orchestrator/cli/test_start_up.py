"""What a fresh process has imported after a command, so that help and tables come at once: by name, not by time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
from helpers.applied import small_run
from helpers.terminal import python

from cellsemi.orchestrator.cli.main import cli

OF_PYTHON = {"__main__", "cellsemi", "coverage", "sitecustomize", "usercustomize"}
BY_TABLES = {
    "annotated_types", "click", "cloudpickle", "cython_runtime", "numpy", "pyarrow", "pycocotools", "pydantic",
    "pydantic_core", "rich", "typing_extensions", "typing_inspection", "yaml",
}  # fmt: skip
IMPORTED = """
import json, sys
from cellsemi.orchestrator.cli.main import Session, cli
for command in json.loads(sys.argv[1]):
    try:
        cli.main(command, prog_name="cellsemi", standalone_mode=False, obj=Session())
    except SystemExit as error:
        assert not error.code, command
print("IMPORTED", *sys.modules)
"""


def imported_by(*commands: list[str], cwd: Path) -> tuple[set[str], set[str], str]:
    """The packages of others and the modules of ours that a fresh process has after commands, and what they print."""
    done = python(IMPORTED, json.dumps(commands), cwd=cwd)
    assert done.returncode == 0, done.stderr
    text, _, names = done.stdout.rpartition("IMPORTED")
    modules = names.split()
    packages = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - OF_PYTHON
    ours = {name.removeprefix("cellsemi.") for name in modules if name.startswith("cellsemi.")}
    return {name for name in packages if not name.startswith("_")}, ours, text


def test_every_help_imports_click_alone(here: Path) -> None:
    groups = {name: command.commands for name, command in cli.commands.items() if isinstance(command, click.Group)}
    calls = [[], *([name] for name in cli.commands), *([name, part] for name in groups for part in groups[name])]
    packages, ours, text = imported_by(*([*call, "--help"] for call in calls), cwd=here)
    assert packages == {"click"}
    assert not {"configs.loading", "configs.schema"} & ours
    for name in cli.commands:
        assert f"cellsemi {name}" in text


def test_the_leaderboard_imports_what_prints_a_table(here: Path, fake_models: None) -> None:
    small_run(here, 0)
    packages, ours, _ = imported_by(["leaderboard", "demo"], cwd=here)
    assert packages <= BY_TABLES
    assert not {"configs.schema", "rounds.store.lock", "orchestrator.runs.status"} & ours


def test_the_status_imports_the_lock_besides(here: Path, fake_models: None) -> None:
    small_run(here, 0)
    assert imported_by(["status", "demo"], cwd=here)[0] <= {*BY_TABLES, "filelock"}


def test_the_driver_of_a_run_does_without_torch(here: Path) -> None:
    """Some 400 MB of memory: workers load it, the driver only says what they are to do."""
    done = python("import sys, cellsemi.orchestrator.campaign, cellsemi.orchestrator.engine.open; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert "cellsemi" in packages and not {"torch", "numba", "sklearn", "matplotlib"} & packages
