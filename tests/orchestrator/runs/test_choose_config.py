"""Which config a call of `cellsemi round` has: that of the run which it names, of a file, or of a preset."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.run_folders import finish_folder
from helpers.terminal import invoke

from cellsemi.configs.errors import ConfigError, UsageError
from cellsemi.configs.loading import load_config
from cellsemi.orchestrator.runs.choose_config import choose_config
from cellsemi.rounds.store.run import RunPaths, open_run, paths_of

OWN = ["training.steps=7", "models=[{name: a, training: {batch: 2}}, {name: b}]", "engine.kind=inline"]


def run_called(name: str, *settings: str) -> RunPaths:
    return open_run(load_config("demo", [*OWN, f"run.name={name}", *settings]).config)


def test_a_run_goes_on_with_its_own_config(here: Path) -> None:
    paths = run_called("tiny")
    for named in ("tiny", "runs/tiny", str(paths.root)):
        loaded, unread = choose_config(None, named, [])
        assert loaded.config == load_config("demo", [*OWN, "run.name=tiny"]).config
        assert loaded.origin == f"the run's own, {paths.config}" and unread == ""
        assert paths_of(loaded.config) == paths
    assert open_run(loaded.config) == paths  # nothing changed


def test_settings_change_it_as_they_would_have_changed_the_file(here: Path) -> None:
    paths = run_called("tiny")
    finish_folder(paths.round(0), rows=1)
    loaded, _ = choose_config(None, "tiny", ["training.lr=0.5"])
    assert loaded.config == load_config("demo", [*OWN, "run.name=tiny", "training.lr=0.5"]).config
    assert loaded.config.training_of(loaded.config.models[0]).lr == 0.5
    with pytest.raises(UsageError, match=r"training\.lr: 0\.004 -> 0\.5"):
        open_run(loaded.config)
    done = invoke("round", "--n", "0", "--run", "tiny", "--set", "training.lr=0.5")
    assert "training.lr: 0.004 -> 0.5" in str(done.exception) and "--accept-changes" in str(done.exception)


def test_another_name_is_a_new_run_with_the_config_that_there_is(here: Path) -> None:
    run_called("tiny")
    loaded, _ = choose_config(None, "other", [])
    assert loaded.config == load_config("demo", ["run.name=other"]).config
    (here / "cellsemi.yaml").write_text("training: {steps: 3}", encoding="utf-8")
    loaded, unread = choose_config(None, "other", [])
    assert (loaded.origin, loaded.config.training.steps, unread) == ("./cellsemi.yaml", 3, "")
    with pytest.raises(ConfigError, match=r"run\.name"):
        choose_config(None, "runs/nothing", [])


def test_a_file_that_says_otherwise_is_not_read_and_that_is_said(here: Path) -> None:
    paths = run_called("tiny")
    (here / "cellsemi.yaml").write_text("training: {steps: 3}", encoding="utf-8")
    loaded, unread = choose_config(None, "tiny", [])
    assert loaded.config.training.steps == 7
    assert unread.startswith("./cellsemi.yaml is not read; it says otherwise (") and "and " in unread
    shown = invoke("round", "--n", "0", "--run", "tiny", "--dry-run")
    assert shown.exit_code == 0 and "--config cellsemi.yaml --run tiny takes it" in shown.stderr
    assert invoke("round", "--n", "0", "--run", "tiny", "--dry-run", "--json").stderr == ""
    (here / "cellsemi.yaml").write_text("training: {stepps: 3}", encoding="utf-8")
    assert choose_config(None, "tiny", [])[1] == "./cellsemi.yaml is not valid and is not read"
    shutil.copy(paths.config, here / "cellsemi.yaml")
    assert choose_config(None, "tiny", [])[1] == ""


def test_the_file_of_a_run_is_a_config(here: Path) -> None:
    paths = run_called("tiny")
    loaded, _ = choose_config("runs/tiny/run.yaml", None, [])
    assert loaded.config == load_config("demo", [*OWN, "run.name=tiny"]).config and paths_of(loaded.config) == paths
    loaded, _ = choose_config("runs/tiny/run.yaml", "again", ["training.steps=8"])
    assert (loaded.config.run.name, loaded.config.training.steps) == ("again", 8)
    model = loaded.config.models[0]  # its own settings are those that differ from the common ones
    assert (loaded.config.training_of(model).steps, loaded.config.training_of(model).batch) == (8, 2)


def test_a_run_is_found_where_the_config_keeps_its_runs(here: Path) -> None:
    far = run_called("tiny", "run.root=far")
    near = run_called("tiny")
    assert paths_of(choose_config(None, "tiny", [])[0].config) == near
    assert paths_of(choose_config(None, "tiny", ["run.root=far"])[0].config) == far
    assert choose_config(None, "tiny", ["run.root=nowhere"])[0].config.training.steps != 7  # a new run
    (here / "cellsemi.yaml").write_text("run: {root: far}", encoding="utf-8")
    assert paths_of(choose_config(None, "tiny", [])[0].config) == far


def test_a_run_that_was_moved_goes_on_where_it_is(here: Path) -> None:
    paths = run_called("tiny")
    (here / "kept").mkdir()
    shutil.move(paths.root, here / "kept" / "tiny")
    loaded, _ = choose_config(None, "kept/tiny", [])
    assert paths_of(loaded.config).root == here / "kept" / "tiny"
    assert open_run(loaded.config).root == here / "kept" / "tiny"
