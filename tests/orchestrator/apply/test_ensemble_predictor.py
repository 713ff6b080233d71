"""An ensemble that is read from a run predicts what the run itself predicted on its test images, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.campaigns import bring, config_at

from cellsemi.orchestrator.apply.ensemble_predictor import EnsemblePredictor
from cellsemi.orchestrator.apply.recipe import TrainedModel
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.ensemble import Ensemble, delivered, read_ensemble, standing
from cellsemi.rounds.evaluation.history import delivered_model, read_manifests
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.run import CONTROL, RunPaths

PER_CELL = ("class_id", "score", "quality", "area", "bbox", "rle", "votes", "agreement")
SMALL = "models=[{kind: flow-unet, name: a, width: 8}, {kind: flow-unet, name: b, width: 8, seed_offset: 1}]"


def same(found: Instances, known: Instances) -> bool:
    return all(np.array_equal(getattr(found, name), getattr(known, name)) for name in PER_CELL)


def predicts_its_own_test_images(paths: RunPaths, ensemble: Ensemble) -> None:
    predictor = EnsemblePredictor(TrainedModel.of_run(paths, ensemble), "cpu")
    known = list(shards.read_folder(paths.predictions(ensemble.round, ensemble.name, "test")))
    images = list(shards.read_folder(paths.split("test")))
    found = [
        predictor.predict([decode_image(record.image, record.image_id, 10**9)])[0]
        for record in images
        if record.image is not None
    ]
    assert [record.image_id for record in images] == [record.image_id for record in known]
    for cells, record in zip(found, known, strict=True):
        assert record.instances is not None and same(cells, record.instances), record.image_id
    assert sum(len(cells) for cells in found), "no cell was found: nothing was compared"


@pytest.mark.parametrize(
    "settings", [(), ("rounds.folds=2",), ("rounds.ensemble=greedy",), ("fusion.calibrate=false",)]
)
def test_stand_ins_predict_what_the_run_did(tmp_path: Path, fake_models: None, settings: tuple[str, ...]) -> None:
    paths, _ = bring(config_at(tmp_path, "filter.min_samples=1", *settings), 1)
    manifest = read_manifests(paths)[1]
    for ensemble in (read_ensemble(paths, 0), read_ensemble(paths, 1), read_ensemble(paths, 1, CONTROL)):
        predicts_its_own_test_images(paths, ensemble)
    assert read_ensemble(paths, 1).members == manifest.students
    assert (delivered(paths).round, delivered(paths).name) == delivered_model(paths)
    assert standing(paths).cutoffs == standing(paths).evaluation(paths).cutoffs


def test_flow_networks_predict_what_the_run_did(tmp_path: Path) -> None:
    settings = (
        "training.steps=200",
        "training.batch=4",
        "training.lr=0.01",
        "inference.cell_probability=auto",
        "filter.min_samples=1",
    )
    paths, _ = bring(config_at(tmp_path, SMALL, *settings), 0)
    ensemble = delivered(paths)
    assert set(ensemble.cell_probabilities) == {"a", "b"}
    predicts_its_own_test_images(paths, ensemble)


def test_an_ensemble_that_is_not_there_is_an_error(tmp_path: Path, fake_models: None) -> None:
    from cellsemi.configs.errors import RunError

    paths, _ = bring(config_at(tmp_path), 0)
    with pytest.raises(RunError, match="round-03"):
        read_ensemble(paths, 3)
