"""How many images a shard holds: by the workers of a run's first call, whoever goes on with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.campaigns import bring, config_at

from cellsemi.configs.errors import RunError
from cellsemi.orchestrator.engine.inline import InlineEngine
from cellsemi.orchestrator.runs.plan import accept_changes, adopt_steps
from cellsemi.rounds.store.manifest import read_manifest
from cellsemi.rounds.store.run import RunPaths, open_run, read_shard_workers, write_shard_workers
from cellsemi.rounds.store.shards import images_per_shard

pytestmark = pytest.mark.usefixtures("fake_models")
AUTO = "data.shard_images=auto"


def sizes(paths: RunPaths, split: str) -> list[int]:
    return [shard.rows for shard in read_manifest(paths.split(split)).shards]


def test_eight_shards_for_each_worker_within_bounds() -> None:
    assert images_per_shard("auto", 2000, 64) == 3
    assert images_per_shard("auto", 10**6, 64) == 256
    assert images_per_shard("auto", 0, 64) == images_per_shard("auto", 100, 64) == 1
    assert images_per_shard(16, 10**6, 64) == 16


def test_a_call_with_other_workers_goes_on_with_the_same_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_at(tmp_path, AUTO, "data.generated.unlabelled=33")
    paths, _ = bring(config, 0)
    assert read_shard_workers(paths) == 1 and sizes(paths, "unlabelled") == [4] * 8 + [1]
    monkeypatch.setattr(InlineEngine, "workers", lambda self: 7)
    bring(config, 1)
    other = config_at(tmp_path, AUTO, "data.generated.unlabelled=17")
    accept_changes(other, paths)
    bring(other, 0)
    assert sizes(paths, "unlabelled") == [2] * 8 + [1]


def test_a_stated_size_asks_for_no_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InlineEngine, "workers", lambda self: 7)
    paths, _ = bring(config_at(tmp_path, "data.shard_images=3", "data.generated.unlabelled=7"), 0)
    assert read_shard_workers(paths) is None and sizes(paths, "unlabelled") == [3, 3, 1]


def test_a_run_that_takes_steps_over_takes_the_number(tmp_path: Path) -> None:
    base, _ = bring(config_at(tmp_path, AUTO), 0)
    write_shard_workers(base, 5)
    other = config_at(tmp_path, AUTO, "run.name=other", "filter.f_beta=2.0")
    adopt_steps(base, open_run(other), other)
    assert read_shard_workers(open_run(other)) == 5


def test_a_damaged_number_is_said(tmp_path: Path) -> None:
    paths = open_run(config_at(tmp_path, AUTO))
    write_shard_workers(paths, 0)
    with pytest.raises(RunError, match="shard_workers: expected a number of workers, got 0"):
        read_shard_workers(paths)
