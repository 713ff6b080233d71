"""Cross-validation: no model learns from, or is taught by who learned from, the images that judge it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.campaigns import bring, config_at, tables
from PIL import Image

from cellsemi.configs.errors import DataError, UsageError
from cellsemi.configs.schema import Config
from cellsemi.models.model_files import read_weights
from cellsemi.orchestrator.runs.export import ExportRequest, choose
from cellsemi.orchestrator.runs.label_issues import judged_split
from cellsemi.orchestrator.runs.status import read_status
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.evaluation_table import find, read_evaluations
from cellsemi.rounds.pseudo_labels.training_set import OF_JUDGED
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.manifest import read_fit, read_manifest
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


# id, split, well, class, and whose pixels it has. Well 3 is of labelled and unlabelled images; u5 has the pixels of u0,
# so that wells 0 and 4 are one; l2 and l6, of other wells, are one picture.
PLATES = """
l0 labelled w0 shsy5y l0    l1 labelled w1 shsy5y l1    l2 labelled w2 shsy5y l2    l3 labelled w3 astro l3
l4 labelled w4 astro l4     l5 labelled w5 astro l5     l6 labelled w6 shsy5y l2    l7 labelled w3 astro l7
v0 val w7 shsy5y v0         v1 val w8 astro v1          t0 test w9 shsy5y t0        t1 test w10 astro t1
u0 unlabelled w0 shsy5y u0  u1 unlabelled w1 shsy5y u1  u2 unlabelled w3 astro u2   u3 unlabelled w5 astro u3
u4 unlabelled w11 astro u4  u5 unlabelled w4 astro u0   u6 unlabelled w12 astro u4
"""


def plates(folder: Path) -> Path:
    """A data set on disk in the wells of PLATES."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    lines = ["id,split,well,kind"]
    words = PLATES.split()
    for name, split, well, kind, pixels in zip(*(words[column::5] for column in range(5)), strict=True):
        rng = np.random.default_rng(ord(pixels[0]) * 16 + int(pixels[1]))
        image, labels = rng.normal(100, 4, (48, 56)), np.zeros((48, 56), np.uint16)
        for cell in range(1, 5):
            y, x = 12 * ((cell - 1) // 2) + rng.integers(2, 6), 24 * (cell % 2) + rng.integers(2, 14)
            labels[y : y + 6, x : x + 6], image[y : y + 6, x : x + 6] = cell, 200
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"{name}.png")
        Image.fromarray(labels).save(folder / "masks" / f"{name}.png")
        lines.append(f"{name},{split},{well},{kind}")
    (folder / "manifest.csv").write_text("\n".join(lines))
    return folder


def test_no_group_and_no_pixels_are_both_learnt_and_judged(tmp_path: Path) -> None:
    data = ("data.source=label-maps", f"data.root={plates(tmp_path / 'plates')}", "data.group_column=well")
    more = ("data.class_column=kind", "data.classes=[shsy5y, astro]", "rounds.stop_after=null")
    limits = f"filter.thresholds={{shsy5y: {LIMITS}, astro: {LIMITS}}}"
    config = config_at(tmp_path, *SETTINGS, *data, *more, limits)
    paths, watcher = bring(config, 2)
    left: dict[str, int] = {}
    for fold in folds_of(config):
        judged = list(shards.read_folder(paths.split(fold.val)))
        assert {record.cell_type for record in judged} == {"shsy5y", "astro"}, "each fold has of each class"
        wells, pixels = {r.group for r in judged}, {r.sha256 for r in judged}
        for round in (0, 1, 2):
            learnt = list(shards.read_folder(paths.train(round, fold.suffix)))
            assert not wells & {r.group for r in learnt} and not pixels & {r.sha256 for r in learnt}
        counts = read_manifest(paths.train(1, fold.suffix)).merged
        assert counts is not None
        left[fold.val] = counts.left_out.get(OF_JUDGED, 0)
        taught = {r.image_id for r in learnt if r.split == "unlabelled"}
        assert {"u4", "u6"} <= taught, "images of wells without labels teach every fold"
        assert not {"l0", "l4"} & {r.image_id for r in judged} or {"l0", "l4"} <= {r.image_id for r in judged}
    assert sum(left.values()) == 5, "each of u0, u1, u2, u3, u5 is left out of the one fold that its well evaluates"
    assert any(f"({OF_JUDGED})" in note for note in watcher.notes)


def test_without_folds_there_is_one_hold_out() -> None:
    (only,) = folds_of(Config())
    assert only.member("unet") == "unet" and only.human == ("labelled", "val") and only.val == "val"
