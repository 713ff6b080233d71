"""Commands that read, on a file system that cannot be written and without the module that locks files on Unix."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from helpers.applied import small_run, write_images
from helpers.terminal import python

from cellsemi.rounds.store.run import RunPaths

TESTS = Path(__file__).parents[2]
PLACE = """
    import errno, os, sys
    sys.path.insert(0, sys.argv[1])
    WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    CHANGES = ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.utime")
    def refuse(event, arguments):
        if event == "open" and not arguments[2] & WRITES or event != "open" and event not in CHANGES:
            return
        for path in arguments[:1] if event == "open" else arguments:
            if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(sys.argv[2]):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(path))
"""
RUN = """
    import json
    from cellsemi.models.registry import FAMILIES
    FAMILIES["flow-unet"] = "helpers.fake_family"
    from cellsemi.orchestrator.cli.main import Session, cli
    for command in json.loads(sys.argv[3]):
        try:
            print("CALLED", *command, flush=True)
            code = cli.main(command, prog_name="cellsemi", standalone_mode=False, obj=Session())
            assert not code or command[0] == "doctor", code
        except SystemExit as end:
            assert not end.code, end.code
"""


def run_all(code: str, commands: list[list[str]], here: Path, protected: Path) -> str:
    done = python(textwrap.dedent(code + RUN), str(TESTS), str(protected), json.dumps(commands), cwd=here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("CALLED ") == len(commands)
    return done.stdout


@pytest.fixture
def finished(here: Path, fake_models: None) -> RunPaths:
    paths = small_run(here, 0)
    write_images(paths, "test", here / "images")
    return paths


PREDICT = ["predict", "images", "--run", "demo", "--engine", "inline", "--format", "label-maps", "--out"]


def test_every_command_that_reads_works_on_a_read_only_run(here: Path, finished: RunPaths) -> None:
    commands = [
        ["status", "demo"],
        ["leaderboard", "demo"],
        ["report", "demo", "--out", "report"],
        ["data", "check", "runs/demo"],
        ["data", "inspect", "runs/demo", "--out", "picture.png"],
        ["data", "inspect", "runs/demo/data/val", "--no-picture"],
        ["data", "export", "demo", "--format", "coco", "--out", "cells.json"],
        ["data", "label-issues", "demo"],
        ["model", "export", "demo", "--out", "model"],
        ["round", "--n", "1", "--run", "demo", "--dry-run"],
        [*PREDICT, "predicted"],
    ]
    out = run_all(PLACE + "    sys.addaudithook(refuse)\n", commands, here, finished.root)
    assert "no driver is working on it" in out
    assert (here / "report" / "report.html").is_file() and list((here / "predicted").rglob("*.tif"))
    hook = PLACE + "    sys.addaudithook(refuse)\n    open(sys.argv[2] + '/x', 'w')\n"
    assert "Read-only file system" in python(textwrap.dedent(hook), str(TESTS), str(finished.root)).stderr


def test_without_fcntl_the_package_imports_and_its_commands_run(here: Path, finished: RunPaths) -> None:
    """As on Windows. Detectron2 is no package of ours, and is not there."""
    hide = """
    import importlib, pkgutil, sys
    sys.modules["fcntl"] = None
    sys.path.insert(0, sys.argv[1])
    import cellsemi
    for module in pkgutil.walk_packages(cellsemi.__path__, "cellsemi."):
        if "detectron2_maskrcnn" not in module.name:
            importlib.import_module(module.name)
    """
    commands = [
        ["--help"],
        ["doctor"],
        ["data", "inspect", "runs/demo", "--no-picture"],
        ["status", "demo"],
        [*PREDICT, "predicted"],
        ["round", "--n", "0", "--run", "demo"],
    ]
    out = run_all(hide, commands, here, here / "nothing")
    assert "Usage: cellsemi" in out and list((here / "predicted").rglob("*.tif"))
