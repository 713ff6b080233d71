"""An exported model stands alone: it predicts as its run does, and what was altered is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.applied import records, small_run, write_images
from helpers.campaigns import bring, config_at
from helpers.terminal import invoke

from cellsemi.configs.errors import ModelError, RunError, UsageError
from cellsemi.models.model_files import WEIGHTS_FILE
from cellsemi.orchestrator.apply.choose_model import choose_model, of_run
from cellsemi.orchestrator.apply.ensemble_predictor import EnsemblePredictor
from cellsemi.orchestrator.apply.exchange_files import FOLDER
from cellsemi.orchestrator.apply.model_folder import CARD, CHECKSUMS, write_model_folder
from cellsemi.orchestrator.apply.recipe import MEMBERS, RECIPE_FILE, TrainedModel
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import COLUMNS
from cellsemi.rounds.store import files
from cellsemi.rounds.store.image_codec import decode_image


@pytest.mark.parametrize("name", ["ensemble", "control"])
def test_it_predicts_as_its_run_without_the_run(here: Path, fake_models: None, name: str) -> None:
    paths = small_run(here)
    images = [decode_image(record.image or b"", "x") for record in records(paths, "unlabelled")]
    chosen = of_run(paths, 1, name)
    expected = EnsemblePredictor(chosen.model, "cpu").predict(images)
    fingerprint = chosen.model.fingerprint
    write_model_folder(chosen, "# card\n", here / "model")
    shutil.rmtree(here / "runs")
    loaded = choose_model(None, here / "model")
    assert loaded.model.recipe == chosen.model.recipe and loaded.seen == chosen.seen
    assert loaded.model.fingerprint == fingerprint
    found = EnsemblePredictor(loaded.model, "cpu").predict(images)
    assert sum(map(len, found))
    for cells, known in zip(found, expected, strict=True):
        assert all(np.array_equal(getattr(cells, column), getattr(known, column)) for column in COLUMNS)


def test_every_file_has_its_checksum(here: Path, fake_models: None) -> None:
    done = write_model_folder(of_run(small_run(here)), "# card\n", here / "model", extra=lambda folder: None)
    lines = (here / "model" / CHECKSUMS).read_text().splitlines()
    stated = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    there = {
        path.relative_to(here / "model").as_posix(): path for path in (here / "model").rglob("*") if path.is_file()
    }
    assert set(stated) == set(there) - {CHECKSUMS} == set(done.sizes) and CARD in stated
    for name, digest in stated.items():
        assert hashlib.sha256(there[name].read_bytes()).hexdigest() == digest


def test_it_is_whole_or_absent(here: Path, fake_models: None) -> None:
    def fail(folder: Path) -> None:
        raise ModelError("the extra file cannot be made")

    chosen = of_run(small_run(here))
    with pytest.raises(ModelError, match="extra"):
        write_model_folder(chosen, "", here / "model", fail)
    assert not (here / "model").exists()
    write_model_folder(chosen, "", here / "model")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_model_folder(chosen, "", here / "model")


def test_what_was_altered_is_refused(here: Path, fake_models: None) -> None:
    chosen = of_run(small_run(here))
    write_model_folder(chosen, "", here / "model")
    member = chosen.model.recipe.members[0].name
    weights = here / "model" / MEMBERS / member / WEIGHTS_FILE
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(ModelError, match="altered"):
        EnsemblePredictor(TrainedModel.read(here / "model"))
    recipe = here / "model" / RECIPE_FILE
    content = files.read_json(recipe)
    files.write_json(recipe, {**content, "unknown": 1})
    with pytest.raises(ModelError, match="unknown"):
        TrainedModel.read(here / "model")


def test_the_fingerprint_holds_what_changes_predictions(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    prints = {of_run(paths, round, name).model.fingerprint for round in (0, 1) for name in ("ensemble",)}
    assert len(prints) == 2
    assert of_run(paths, 1, "control").model.fingerprint not in prints
    model = of_run(paths, 1).model
    other = TrainedModel(model.recipe.model_copy(update={"cutoffs": Cutoffs.same(0.99, 3)}), model.members)
    renamed = TrainedModel(model.recipe.model_copy(update={"run": "another name"}), model.members)
    assert other.fingerprint != model.fingerprint == renamed.fingerprint


def test_a_recipe_states_every_default(here: Path, fake_models: None) -> None:
    """Another version may have other defaults."""
    write_model_folder(of_run(small_run(here)), "", here / "model")
    inference = files.read_json(here / "model" / RECIPE_FILE)["members"][0]["inference"]
    assert {"tile_px", "overlap", "tta", "min_area_px", "cell_probability"} <= set(inference)


def test_the_command_writes_a_folder_that_predict_uses(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    done = invoke("model", "export", str(paths.root), "--out", "model")
    assert done.exit_code == 0 and "cellsemi predict IMAGES --model model" in done.output, done.output
    card = (here / "model" / CARD).read_text()
    assert card.startswith("---\n") and "mAP" in card and "cellsemi.load_model" in card
    write_images(paths, "unlabelled", here / "images")
    shutil.rmtree(here / "runs")
    found = invoke("predict", "images", "--model", "model", "--out", "out", "--format", "coco", "--json")
    assert found.exit_code == 0 and json.loads(found.stdout)["images"] == 5
    assert json.loads(found.stdout)["model"].endswith("of demo")


def test_the_models_of_folds_are_handed_on(here: Path) -> None:
    """With real networks: of one fold there is TorchScript, and no package that would state its figures."""
    settings = ("models=[{kind: flow-unet, name: a, width: 4}]", "training.steps=10", "training.batch=2")
    paths, _ = bring(config_at(here / "runs", "rounds.folds=2", *settings), 0)
    done = invoke("model", "export", str(paths.root), "--out", "model")
    assert done.exit_code == 0 and "No bioimage-io" in done.output, done.output
    assert sorted(path.name for path in (here / "model" / FOLDER).iterdir()) == ["a.fold-0.pt", "a.fold-1.pt"]
    assert len(TrainedModel.read(here / "model").recipe.members) == 2


def test_the_command_takes_one_model_of_a_round(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    assert invoke("model", "export", str(paths.root), "--round", "0", "--name", "unet-b", "--out", "one").exit_code == 0
    assert [member.name for member in TrainedModel.read(here / "one").recipe.members] == ["unet-b"]
    wrong = invoke("model", "export", str(paths.root), "--name", "nobody", "--out", "two")
    assert isinstance(wrong.exception, RunError) and not (here / "two").exists()
