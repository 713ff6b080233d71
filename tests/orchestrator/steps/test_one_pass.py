"""All teachers, the fusion and the filter in one pass: each image once, and nothing twice after a crash."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from helpers.campaigns import Notes, bring, config_at, tables

from cellsemi.orchestrator.steps import jobs
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.manifest import COMMITS
from cellsemi.rounds.store.run import open_run

pytestmark = pytest.mark.usefixtures("fake_models")


def test_what_was_committed_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_at(tmp_path)
    watcher = Notes()
    monkeypatch.setattr(watcher, "advance", _stop_after_first_pool_shard(watcher))
    with pytest.raises(KeyboardInterrupt):
        bring(config, 1, watcher)
    paths = open_run(config)
    models = [paths.predictions(0, name, "unlabelled") for name in ("unet-a", "unet-b", "ensemble")]
    folders = [*models, paths.pseudo(1)]
    assert [len(list((folder / COMMITS).glob("*.json"))) for folder in folders] == [1, 1, 1, 1]
    stamps = [(folder / "part-00000.parquet").stat().st_mtime_ns for folder in folders]
    bring(config, 1)
    assert stamps == [(folder / "part-00000.parquet").stat().st_mtime_ns for folder in folders]
    assert [len(list(folder.glob("part-*.parquet"))) for folder in folders] == [3, 3, 3, 3]
    assert tables(paths) == tables(bring(config_at(tmp_path / "whole"), 1)[0])


@pytest.mark.parametrize("held", [0, 4096])
def test_every_image_is_decoded_once_for_the_teachers_of_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    decoded: Counter[str] = Counter()
    whole = jobs.decode_image

    def decode(content: bytes, image_id: str, max_pixels: int) -> jobs.Image:
        decoded[image_id] += 1
        return whole(content, image_id, max_pixels)

    monkeypatch.setattr(jobs, "decode_image", decode)
    paths, watcher = bring(config_at(tmp_path, f"engine.weights_per_pass_mb={held}"), 1)
    pool = [record.image_id for record in shards.read_folder(paths.split("unlabelled"))]
    passes = [name for name in watcher.begun if name.startswith("1: label unlabelled")]
    both = "1: label unlabelled with unet-a, unet-b"
    assert passes == ([f"{both}, pass 2 of 2"] if held == 0 else [both])
    assert [decoded[image_id] for image_id in pool] == [2 if held == 0 else 1] * len(pool)


def _stop_after_first_pool_shard(watcher: Notes):  # type: ignore[no-untyped-def]
    def advance(done: int) -> None:
        if watcher.begun[-1] == "1: label unlabelled with unet-a, unet-b" and done:
            raise KeyboardInterrupt

    return advance
