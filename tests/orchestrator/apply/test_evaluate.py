"""Models and masks of other tools are scored on the same images, and never unnoticed on what they have seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.applied import records, small_run, write_images, write_labels
from helpers.terminal import invoke

from cellsemi.configs.errors import DataError, UsageError
from cellsemi.orchestrator.apply.choose_model import of_run
from cellsemi.rounds.cells import masks
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.history import delivered_model
from cellsemi.rounds.evaluation.metrics import score_image
from cellsemi.rounds.evaluation.seen import SeenImages
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.run import RunPaths


def data_of(paths: RunPaths, split: str, folder: Path) -> Path:
    write_images(paths, split, folder)
    write_labels(paths, split, folder)
    return folder


def judged(*args: str) -> dict[str, object]:
    result = invoke("evaluate", *args, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_a_run_scores_what_its_leaderboard_says(here: Path, fake_models: None) -> None:
    """On the run's own test images, which are left in, while those of training and validation are left out."""
    paths = small_run(here)
    found = judged(str(paths.root), "--run", str(paths.root))
    round, model = delivered_model(paths)
    (row,) = (row for row in leaderboard.read(paths.leaderboard) if (row.round, row.model) == (round, model))
    (model_found,) = found["models"]  # type: ignore[misc]
    assert model_found["map"]["value"] == pytest.approx(row.test_map.value, abs=1e-12)
    assert model_found["summary"]["class_map"] == pytest.approx(dict(row.test_class_map))
    assert found["images"] == 3
    assert found["left_out"] == {
        "trained on, with their labels by demo": 3,
        "used to choose thresholds and models by demo": 3,
    }
    assert judged(str(paths.root), "--run", str(paths.root), "--include-seen")["images"] == 9


def test_masks_of_another_tool_are_scored_beside_a_run(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    data = data_of(paths, "test", here / "data")
    perfect = here / "other"
    write_labels(paths, "test", perfect)
    found = judged(str(data), "--run", str(paths.root), "--masks", str(perfect))
    ours, theirs = found["models"]  # type: ignore[misc]
    assert (ours["name"], theirs["name"]) == ("demo", "other")
    assert theirs["map"] == {"value": 1.0, "low": 1.0, "high": 1.0} and ours["difference"] is None
    assert theirs["difference"]["value"] == pytest.approx(1.0 - ours["map"]["value"])
    assert found["classes"] == ["cell"], "label maps name no classes"


def test_a_score_is_that_of_the_metric_itself(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    data = data_of(paths, "test", here / "data")
    moved, expected = here / "moved", []
    moved.mkdir()
    for record in records(paths, "test"):
        assert record.instances is not None
        labels = masks.to_label_map(record.instances)
        other = np.roll(labels, 1, axis=0)
        tifffile.imwrite(moved / f"{record.image_id}.tif", other.astype("uint16"))
        truth, predicted = masks.from_label_map(labels, state="human"), masks.from_label_map(other)
        expected.append(score_image("x", truth, predicted).total.ap)
    (found,) = judged(str(data), "--masks", f"moved by one={moved}")["models"]  # type: ignore[misc]
    assert found["name"] == "moved by one" and found["map"]["value"] == pytest.approx(np.mean(expected))
    assert 0 < found["map"]["value"] < 1


def test_only_images_that_all_have_are_compared(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    data = data_of(paths, "test", here / "data")
    write_labels(paths, "test", here / "some")
    sorted((here / "some").iterdir())[0].unlink()
    found = judged(str(data), "--run", str(paths.root), "--masks", str(here / "some"))
    assert found["images"] == 2 and found["left_out"] == {"not in some": 1}


def test_images_that_were_trained_on_are_not_scored_unnoticed(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    data = data_of(paths, "labelled", here / "data")
    result = invoke("evaluate", str(data), "--run", str(paths.root))
    assert isinstance(result.exception, DataError) and "trained on" in str(result.exception)
    assert judged(str(data), "--run", str(paths.root), "--include-seen")["images"] == 3


def test_groups_that_a_run_has_used_are_named(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    data = data_of(paths, "test", here / "data")
    group = next(iter(SeenImages.of_run(paths).groups))
    for path in sorted(data.iterdir()):
        path.rename(path.with_name(f"{group}_{path.name}"))
    settings = ("--set", "data.source=paired", "--set", "data.images=.", "--set", "data.masks=.")
    pattern = ("--set", f"data.group_pattern=({group})_")
    found = judged(str(data), "--run", str(paths.root), *settings, *pattern)
    (warning,) = found["warnings"]  # type: ignore[misc]
    assert group in warning and "3 images" in warning


def test_an_unreadable_image_is_named_and_the_others_scored(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    data = data_of(paths, "test", here / "data")
    sorted(data.glob("*.png"))[0].write_bytes(b"\x89PNG damaged")
    found = judged(str(data), "--run", str(paths.root))
    assert found["images"] == 2 and len(found["unusable"]) == 1  # type: ignore[arg-type]


def test_two_of_one_name_are_refused(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    data = data_of(paths, "test", here / "data")
    result = invoke("evaluate", str(data), "--run", str(paths.root), "--run", str(paths.root))
    assert isinstance(result.exception, UsageError) and "demo" in str(result.exception)


def test_the_table_is_read_at_80_columns(here: Path, fake_models: None, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = small_run(here)
    data = data_of(paths, "test", here / "data")
    write_labels(paths, "test", here / "other")
    monkeypatch.setenv("COLUMNS", "80")
    shown = invoke("evaluate", str(data), "--run", str(paths.root), "--masks", str(here / "other")).output
    assert "vs first" in shown and "…" not in shown
    assert "n = 3: too few" in shown and ".." not in shown.split("mAP:")[0], "no interval of three images"


def test_what_a_run_has_used_is_known(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    seen = of_run(paths).seen
    for split in ("labelled", "unlabelled", "val"):
        assert {seen.use_of(record) for record in shards.read_folder(paths.split(split))} == {split}
    assert {seen.use_of(record) for record in shards.read_folder(paths.split("test"))} == {None}
