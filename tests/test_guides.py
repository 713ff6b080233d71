"""Every Python and shell line of the README and the docs runs, in a folder that holds what they take for granted."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from helpers.guides import GUIDES, blocks, furnish, furnish_sources, shell_lines
from helpers.terminal import invoke
from helpers.tools_of_others import stand_in

# What is not run here, and why.
OTHER_PROGRAMS = {
    "make": "its targets are checked in test_packaging.py; CI runs them",
    "git": "the network",
    "python3": "makes an environment",
    "pip": "the package index",
    "uv": "the package index",
    ".ci/run": "CI runs it",
    ".venv/bin/pytest": "CI runs it",
    "python": "a benchmark: minutes to hours",
    "sha256sum": "not everywhere",
}
LEFT_OUT = {
    "--watch": "until Ctrl-C",
    "app": "serves; tests/orchestrator/app runs it in a browser",
    "--address": "needs a cluster",
    "torchscript": "needs a real network",
    "bioimage-io": "likewise",
    "cellpose.pth": "needs a trained Cellpose-SAM",
    "livecell-cellpose.pth": "likewise",
    "livecell-pretraining": "needs data of others and a GPU",
    "ensemble-cellpose-maskrcnn": "likewise",
}
SMALL = [  # a config in which rounds are quick
    "run: {name: mine}",
    "data:",
    "  source: generated",
    "  classes: [shsy5y, astro, cort]",
    "  generated: {labelled: 3, unlabelled: 3, val: 3, test: 3, height_px: 64, width_px: 80}",
    "engine: {min_free_mb: 0}",
]
INLINE = {"round", "ablate"}  # start Ray otherwise: seconds a line
PLANNED = {  # lines with such a word only plan their rounds, which take seconds each
    "livecell.yaml",  # the same page runs those of Sartorius
    "class-tifs.yaml",
    "dsb2018.yaml",
    "4",  # docs/review.md runs a round after a correction
}


@pytest.fixture
def furnished(here: Path, fake_models: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    furnish(here)
    stand_in(monkeypatch)  # for the tools of others that docs/teachers.md calls
    monkeypatch.setenv("CELLSEMI_HOME", str(here / "home"))
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    return here


def command(words: list[str]) -> list[str] | None:
    """The words after `cellsemi`; None for a line that is not run here."""
    program = next(word for word in words if "=" not in word)
    # What names a bucket: tests/orchestrator/test_run_in_bucket.py has a server for it.
    if program in OTHER_PROGRAMS or set(words) & set(LEFT_OUT) or any("s3://" in word for word in words):
        return None
    assert program in ("cellsemi", ".venv/bin/cellsemi"), f"{program}: neither cellsemi nor a program that is known"
    return words[1:]


@pytest.mark.parametrize("name", [name for name in GUIDES if list(shell_lines(name))])
def test_shell_lines_run(name: str, furnished: Path) -> None:
    if name == "docs/how-to.md":
        furnish_sources(furnished)
    for number, words in shell_lines(name):
        line = command(words)
        if line is None:
            continue
        extra = ["--engine", "inline"] if line[0] in INLINE and "--engine" not in line else []
        extra += ["--dry-run"] if line[0] == "round" and PLANNED & set(line) else []
        result = invoke(*line, *extra)
        assert result.exit_code == 0, f"{name}, line {number}: {' '.join(words)}\n{result.output}\n{result.exception}"


@pytest.mark.parametrize("name", [name for name in GUIDES if list(blocks(name, "python"))])
def test_python_blocks_run(name: str, furnished: Path) -> None:
    if "model export" in Path(__file__).parents[1].joinpath(name).read_text(encoding="utf-8"):
        assert invoke("model", "export", "demo", "--out", "my_model").exit_code == 0
    Path("cellsemi.yaml").write_text("\n".join(SMALL), encoding="utf-8")
    names: dict[str, Any] = {}
    for block in blocks(name, "python"):
        source = "\n" * (block.line - 1) + block.text
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(source, name, "exec"), names)  # noqa: S102 - our own guides


def test_a_line_that_fails_would_be_found(furnished: Path) -> None:
    assert invoke("predict", "no_such_folder", "--out", "out").exit_code != 0
    with pytest.raises(AssertionError, match="neither"):
        command(["cellsemy", "round"])
