"""Scores of several models become what they were worth on human labels, before they are fused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.campaigns import bring, config_at

from cellsemi.rounds.calibration.calibration import Calibration, calibrate
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.pseudo_labels.fusion import fuse
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.run import RunPaths

pytestmark = pytest.mark.usefixtures("fake_models")
NAMES = ("unet-a", "unet-b")
MIN = "filter.min_samples=5"  # the stand-in finds few cells


def cells(folder: Path) -> dict[str, Instances]:
    return {r.image_id: r.instances for r in shards.read_folder(folder) if r.instances is not None}


def fused_by_hand(paths: RunPaths, classes: tuple[str, ...], split: str, file: Path) -> dict[str, Instances]:
    worth = {name: Calibration.from_json(files.read_json(file)["members"][name], classes) for name in NAMES}
    said = {name: cells(paths.predictions(0, name, split)) for name in NAMES}
    from cellsemi.configs.rounds import FusionConfig

    return {
        image: fuse({name: worth[name].as_scores(said[name][image]) for name in NAMES}, FusionConfig(), True)
        for image in said[NAMES[0]]
    }


def test_each_model_is_calibrated_by_its_own_predictions_and_fused_by_them(tmp_path: Path) -> None:
    config = config_at(tmp_path, MIN)
    paths, _ = bring(config, 0)
    classes = config.data.classes
    found = files.read_json(paths.calibration(0))["members"]
    truth = cells(paths.split("val"))
    for name in NAMES:
        said = cells(paths.predictions(0, name, "val"))
        pairs = [(said[image], truth[image]) for image in truth]
        assert Calibration.from_json(found[name], classes) == calibrate(pairs, classes, config.filter.min_samples)
        assert sum(curve["samples"] for curve in found[name].values()) == sum(map(len, said.values()))
    assert any(curve["kind"] != "identity" for curve in found["unet-a"].values())
    for split in ("val", "test"):
        expected = fused_by_hand(paths, classes, split, paths.calibration(0))
        for image, fused in cells(paths.predictions(0, "ensemble", split)).items():
            assert fused.rle == expected[image].rle
            np.testing.assert_array_equal(fused.score, expected[image].score)


def test_the_teachers_are_calibrated_as_they_look_at_the_pool(tmp_path: Path) -> None:
    config = config_at(tmp_path, MIN, "unlabelled_inference.tta=[identity, flip_y]")
    paths, _ = bring(config, 1)
    assert files.read_json(paths.teachers_calibration(1))["split"] == "val-as-unlabelled"
    expected, recalls = {}, {}
    for name in NAMES:
        worth = Calibration.from_json(
            files.read_json(paths.teachers_calibration(1))["members"][name], config.data.classes
        )
        recalls[name] = worth.recalls
        for record in shards.read_folder(paths.predictions(0, name, "unlabelled")):
            assert record.instances is not None and record.cell_type is not None
            stated = record.instances.with_(class_id=config.data.classes.index(record.cell_type))
            expected.setdefault(record.image_id, {})[name] = worth.as_scores(stated)
    for image, fused in cells(paths.predictions(0, "ensemble", "unlabelled")).items():
        by_hand = fuse(expected[image], config.fusion, True, recalls)
        assert fused.rle == by_hand.rle
        np.testing.assert_array_equal(fused.score, by_hand.score)


@pytest.mark.parametrize("setting", ["fusion.calibrate=false", "models=[{kind: flow-unet, name: one}]"])
def test_scores_stay_as_they_are_where_they_meet_no_others_or_it_is_switched_off(tmp_path: Path, setting: str) -> None:
    paths, _ = bring(config_at(tmp_path, MIN, setting), 1)
    assert not paths.calibration(0).exists() and not paths.teachers_calibration(1).exists()
