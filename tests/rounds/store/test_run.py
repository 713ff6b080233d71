"""A run on disk: identity, stages that know when they are done."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellsemi.configs.errors import RunError, UsageError
from cellsemi.configs.loading import load_config
from cellsemi.configs.schema import Config
from cellsemi.rounds.store.manifest import (
    finish_stage,
    is_done,
    outputs_fingerprint,
    read_commits,
    shard_items,
    write_commit,
)
from cellsemi.rounds.store.run import RunPaths, open_run, read_config


def config_at(folder: Path, *settings: str) -> Config:
    return load_config("demo", [f"run.root={folder}", *settings]).config


def test_a_run_is_reopened_with_its_config_and_refused_with_another(tmp_path: Path) -> None:
    paths = open_run(config_at(tmp_path))
    assert open_run(config_at(tmp_path, "engine.workers=7")) == paths
    assert read_config(paths) == config_at(tmp_path)
    with pytest.raises(UsageError, match=r"training.steps: \d+ -> 7\b(.|\n)*--run demo-2"):
        open_run(config_at(tmp_path, "training.steps=7"))


def test_a_damaged_or_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run"):
        read_config(RunPaths(tmp_path))
    (tmp_path / "run.yaml").write_text("config: [")
    with pytest.raises(RunError, match="damaged"):
        read_config(RunPaths(tmp_path))


def test_an_address_as_root_is_refused() -> None:
    with pytest.raises(UsageError, match="s3://bucket"):
        open_run(config_at(Path("unused"), "run.root=s3://bucket/runs"))


def test_a_stage_is_done_only_with_its_own_inputs(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    assert not is_done(folder, "abc")
    finish_stage(folder, "abc", 1.234, rows=3)
    assert is_done(folder, "abc")
    with pytest.raises(RunError, match=r"made from other inputs(.|\n)*Remove .*stage"):
        is_done(folder, "xyz")


def test_what_a_stage_hands_on_does_not_depend_on_time(tmp_path: Path) -> None:
    prints = set()
    for i, (seconds, rows) in enumerate([(1.0, 3), (2.0, 3), (1.0, 4)]):
        finish_stage(tmp_path / str(i), "abc", seconds, rows=rows)
        prints.add(outputs_fingerprint(tmp_path / str(i)))
    assert len(prints) == 2


def test_commits_of_other_inputs_do_not_count(tmp_path: Path) -> None:
    write_commit(tmp_path, 0, "old", {"rows": 1})
    write_commit(tmp_path, 1, "new", {"rows": 2})
    assert read_commits(tmp_path, "new") == {1: {"item": 1, "fingerprint": "new", "rows": 2}}


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
