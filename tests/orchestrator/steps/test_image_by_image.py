"""An image that no worker survives costs itself alone, and is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.campaigns import bring, config_at

from cellsemi.configs.errors import EngineError
from cellsemi.orchestrator.runs.report import collect
from cellsemi.orchestrator.steps import jobs
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.schemas import ImageRecord

pytestmark = pytest.mark.usefixtures("fake_models")

MODELS = ("unet-a", "unet-b", "ensemble")


def test_an_image_that_no_worker_survives_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_at(tmp_path, "engine.max_attempts=2")
    ids = image_ids(tmp_path, "unlabelled")
    poison(monkeypatch, "unlabelled", ids[3])
    paths, watcher = bring(config, 1)
    lost = f"predict unlabelled with unet-a: image {ids[3]} was left out, MemoryError: too large"
    assert lost in watcher.notes
    records = list(shards.read_folder(paths.pseudo(1)))
    assert [r.image_id for r in records if r.instances is None] == [ids[3]] and len(records) == 5
    assert any("1 (not predicted)" in note for note in watcher.notes)
    assert any(f"image {ids[3]} was left out" in line for line in collect(config, paths, 1).problems)
    assert not list(paths.root.rglob("_images"))


def test_a_validation_image_that_no_worker_survives_changes_the_number_of_images_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = image_ids(tmp_path, "val")
    poison(monkeypatch, "val", ids[1])
    paths, watcher = bring(config_at(tmp_path, "engine.max_attempts=2"), 0)
    assert f"predict val with unet-b: image {ids[1]} was left out, MemoryError: too large" in watcher.notes
    rows = leaderboard.read(paths.leaderboard)
    assert {row.model: (row.val_images, row.test_images) for row in rows} == dict.fromkeys(MODELS, (2, 3))


def test_a_model_that_predicts_no_image_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, "val", "")
    with pytest.raises(EngineError, match=r"predict val with unet-a: 3 could not be done\n.*MemoryError"):
        bring(config_at(tmp_path, "engine.max_attempts=2"), 1)


def image_ids(tmp_path: Path, split: str) -> list[str]:
    paths, _ = bring(config_at(tmp_path / "ids", "models=[{kind: flow-unet, name: a}]"), 0)
    return [record.image_id for record in shards.read_folder(paths.split(split))]


def poison(monkeypatch: pytest.MonkeyPatch, split: str, image_id: str) -> None:
    """Make an image of a split, or all, kill whoever predicts it."""
    whole = jobs._Predictor._source

    def source_or_die(self: jobs._Predictor, row: int, record: ImageRecord) -> object:
        if f"predict {split} " in self._job.name and image_id in ("", record.image_id):
            raise MemoryError("too large")
        return whole(self, row, record)

    monkeypatch.setattr(jobs._Predictor, "_source", source_or_die)
