"""Cross-validation: no model learns from, or is taught by who learned from, the images that judge it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.campaigns import bring, config_at, tables

from cellsemi.configs.errors import DataError, UsageError
from cellsemi.configs.schema import Config
from cellsemi.models.model_files import read_weights
from cellsemi.orchestrator.runs.export import ExportRequest, choose
from cellsemi.orchestrator.runs.label_issues import judged_split
from cellsemi.orchestrator.runs.status import read_status
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.evaluation_table import find, read_evaluations
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.run import RunPaths

LIMITS = "{accept: 0.02, reject: 0.01}"
SETTINGS = (
    "rounds.folds=3",
    "rounds.promotion.min_probability=0",
    "rounds.promotion.class_margin=1",
    f"filter.thresholds={{shsy5y: {LIMITS}, astro: {LIMITS}, cort: {LIMITS}}}",
)


pytestmark = pytest.mark.usefixtures("fake_models")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folds")


@pytest.fixture
def folded(folder: Path) -> tuple[RunPaths, Config]:
    """One run for all tests: the first makes it, the others find it done."""
    config = config_at(folder, *SETTINGS)
    return bring(config, 1)[0], config


def ids(folder: Path) -> set[str]:
    return {record.image_id for record in shards.read_folder(folder)}


def test_folds_divide_every_human_image_but_test(folded: tuple[RunPaths, Config]) -> None:
    paths, config = folded
    parts = [ids(paths.split(fold.val)) for fold in folds_of(config)]
    human = ids(paths.split("labelled")) | ids(paths.split("val"))
    assert set.union(*parts) == human and sum(map(len, parts)) == len(human)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_fold_learns_from_the_others_and_its_own_teachers_alone(folded: tuple[RunPaths, Config]) -> None:
    paths, config = folded
    human = ids(paths.split("labelled")) | ids(paths.split("val"))
    for fold in folds_of(config):
        learnt = list(shards.read_folder(paths.train(1, fold.suffix)))
        assert {r.image_id for r in learnt if r.split == "labelled"} == human - ids(paths.split(fold.val))
        own = {r.image_id: r.instances for r in shards.read_folder(paths.pseudo(1, fold.suffix))}
        taught = [r for r in learnt if r.split == "unlabelled"]
        assert taught
        for record in taught:
            label = own[record.image_id]
            assert label is not None and record.instances is not None and record.instances.rle == label.rle
    seeds = {
        json.loads(read_weights(paths.model(1, fold.member(name))))["seed"]
        for fold in folds_of(config)
        for name in ("unet-a", "unet-b")
    }
    assert len(seeds) == 6, "each member has an initialisation of its own"


def test_val_of_a_run_with_folds_is_every_human_image_once(folded: tuple[RunPaths, Config]) -> None:
    paths, config = folded
    human = sorted(ids(paths.split("labelled")) | ids(paths.split("val")))
    found = read_evaluations(paths.evaluation(1), config.data.classes)
    for name in ("unet-a", "unet-b", "ensemble"):
        assert sorted(score.image_id for score in find(found, name, "val").scores) == human
        assert len(find(found, name, "test").scores) == config.data.generated.test
    rows = leaderboard.read(paths.leaderboard)
    assert [row.model for row in rows] == ["unet-a", "unet-b", "ensemble"] * 2 + ["control"]
    assert {row.val_images for row in rows} == {len(human)}


def test_the_ensemble_of_test_hears_every_fold(folded: tuple[RunPaths, Config]) -> None:
    paths, _ = folded
    votes = [r.instances.votes.max() for r in shards.read_folder(paths.predictions(1, "ensemble", "test"))
             if r.instances is not None and len(r.instances)]  # fmt: skip
    assert max(votes) > 2, "two models of one fold cannot give three votes"


def test_the_control_is_trained_in_every_fold_on_human_labels_alone(folded: tuple[RunPaths, Config]) -> None:
    paths, config = folded
    for fold in folds_of(config):
        manifest = read_fit(paths.model(1, fold.member("control")))
        assert manifest.steps == 2 * config.training.steps
        human = sum(len(r.instances or ()) for r in shards.read_folder(paths.train(0, fold.suffix)))
        assert json.loads(read_weights(paths.model(1, fold.member("control"))))["cells"] == human


def test_a_second_call_changes_nothing_and_status_names_every_stage(folded: tuple[RunPaths, Config]) -> None:
    paths, config = folded
    before = tables(paths)
    bring(config, 1)
    assert tables(paths) == before
    stages = {stage.name for stage in read_status(paths).stages if stage.round == 1}
    for fold in folds_of(config):
        assert {f"train {fold.member('unet-a')}", f"fuse val of {fold.member('ensemble')}",
                f"filter {fold.member('pseudo-labels')}", f"build {fold.member('the training set')}",
                f"predict test with {fold.member('unet-b')}"} <= stages  # fmt: skip
    assert {"fuse test", "fuse test of unet-a"} <= stages
    (divided,) = (stage for stage in read_status(paths).stages if stage.name == "divide into folds")
    assert divided.done == sum(len(list(shards.read_folder(paths.split(fold.val)))) for fold in folds_of(config))
    assert {stage.state for stage in read_status(paths).stages} == {"done"}


def test_every_label_is_judged_by_models_that_left_it_out(folded: tuple[RunPaths, Config]) -> None:
    """Label issues of labelled images: without folds they are refused, for their models learned from them."""
    paths, config = folded
    judges = judged_split(paths, "labelled")
    human = ids(paths.split("labelled")) | ids(paths.split("val"))
    assert sorted(image for _, images in judges.folders for image in ids(images)) == sorted(human)
    for (predicted, images), fold in zip(judges.folders, folds_of(config), strict=True):
        assert (
            ids(predicted)
            == ids(images)
            == human - {r.image_id for r in shards.read_folder(paths.train(0, fold.suffix)) if r.split == "labelled"}
        )


def test_pseudo_labels_of_folds_are_not_one_set(folded: tuple[RunPaths, Config]) -> None:
    with pytest.raises(UsageError, match="no one set to export"):
        choose(str(folded[0].root), ExportRequest(pseudo=True))


def test_more_folds_than_groups_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot fill 99 folds"):
        bring(config_at(tmp_path, "rounds.folds=99"), 0)


def test_without_folds_there_is_one_hold_out() -> None:
    (only,) = folds_of(Config())
    assert only.member("unet") == "unet" and only.human == ("labelled", "val") and only.val == "val"
