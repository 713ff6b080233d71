"""A run on disk: identity, stages that know when they are done."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.run_folders import finish_folder

from cellsemi.configs.errors import RunError, UsageError
from cellsemi.configs.loading import load_config
from cellsemi.configs.schema import Config
from cellsemi.rounds.store.manifest import Commit, outputs_fingerprint, read_commits, shard_items, write_commit
from cellsemi.rounds.store.run import RunPaths, open_run, read_config, take_config
from cellsemi.rounds.store.steps import Ledger, Step


def config_at(folder: Path, *settings: str) -> Config:
    return load_config("demo", [f"run.root={folder}", *settings]).config


def test_a_run_is_reopened_with_its_config_and_refused_with_another(tmp_path: Path) -> None:
    paths = open_run(config_at(tmp_path))
    assert open_run(config_at(tmp_path, "engine.workers=7")) == paths
    assert read_config(paths) == config_at(tmp_path)
    finish_folder(paths.train(0), rows=1)
    with pytest.raises(UsageError, match=r"training.steps: \d+ -> 7\b(.|\n)*--run demo-2"):
        open_run(config_at(tmp_path, "training.steps=7"))
    with pytest.raises(UsageError, match=r"training.steps: \d+ -> 7\b"):
        take_config(paths, config_at(tmp_path, "training.steps=7"))
    assert read_config(paths) == config_at(tmp_path)


def test_a_run_without_work_takes_another_config(tmp_path: Path) -> None:
    """A first call that failed while it read the images, or just after, must not refuse the corrected one."""
    paths, other = open_run(config_at(tmp_path)), config_at(tmp_path, "training.steps=7")
    finish_folder(paths.data, rows=1)
    assert open_run(other) == paths and read_config(paths) == config_at(tmp_path)  # another call may hold the run
    take_config(paths, other)
    assert read_config(paths) == other


def test_a_damaged_or_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run"):
        read_config(RunPaths(tmp_path))
    (tmp_path / "run.yaml").write_text("config: [")
    with pytest.raises(RunError, match="damaged"):
        read_config(RunPaths(tmp_path))


def test_an_address_as_root_is_refused() -> None:
    with pytest.raises(UsageError, match="http://bucket"):
        open_run(config_at(Path("unused"), "run.root=http://bucket/runs"))


def a_step(paths: RunPaths, value: int = 1) -> Step:
    """A step that reads one setting and one folder."""
    return Step(0, "count", paths.split("count"), {"filter.f_beta": value}, (paths.split("val"),))


def test_a_step_is_done_only_with_its_own_inputs(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    finish_folder(paths.split("val"), rows=3)
    ledger, step = Ledger(paths), a_step(paths)
    assert not ledger.is_done(step)
    ledger.begin(step)
    assert not ledger.is_done(step)
    ledger.finish(step, 1.234)
    assert ledger.is_done(step)
    finish_folder(paths.split("val"), rows=4)
    with pytest.raises(RunError, match=r"made from other inputs(.|\n)*data/val(.|\n)*Remove .*count"):
        ledger.is_done(step)


def test_what_a_folder_hands_on_does_not_depend_on_time(tmp_path: Path) -> None:
    prints = set()
    for i, (seconds, rows) in enumerate([(1.0, 3), (2.0, 3), (1.0, 4)]):
        finish_folder(tmp_path / str(i), rows=rows, seconds=seconds)
        prints.add(outputs_fingerprint(tmp_path / str(i)))
    assert len(prints) == 2


def test_commits_of_other_inputs_do_not_count(tmp_path: Path) -> None:
    old, new = (
        Commit(item=item, fingerprint=name, file="part", rows=1, cells=0, sha256="")
        for item, name in enumerate(("old", "new"))
    )
    write_commit(tmp_path, old)
    write_commit(tmp_path, new)
    assert read_commits(tmp_path, Commit, lambda _: "new") == {1: new}


def test_missing_shards_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "part-00001.parquet").touch()
    with pytest.raises(RunError, match="missing or foreign"):
        shard_items(tmp_path)


def test_finished_rounds_have_no_gap(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    for number in (0, 1, 3):
        paths.round(number).mkdir()
        paths.round_manifest(number).touch()
    assert paths.finished_rounds() == [0, 1]
