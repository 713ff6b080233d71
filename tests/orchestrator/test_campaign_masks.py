"""Campaigns whose teachers are masks of other tools."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import fake_family
from helpers.applied import write_images
from helpers.campaigns import bring, config_at
from helpers.teacher_masks import every_other, nothing, truth, write_masks
from helpers.terminal import invoke

from cellsemi.configs.errors import DataError, ModelError, RunError
from cellsemi.models.base import FitResult, FitTask
from cellsemi.models.given import given_or_fail, take_folder
from cellsemi.rounds.datasets.teacher_masks import MISSING
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.ensemble import delivered
from cellsemi.rounds.evaluation.history import delivered_model, read_manifests, read_verdict
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.manifest import read_fit, read_manifest
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.steps import read_steps

pytestmark = pytest.mark.usefixtures("fake_models")

ONE = ["data.classes=[cell]", "filter.thresholds=auto", "data.generated.val=8"]
OVERLAP = 0.02  # of mAP: a label map gives a pixel of two cells to one of them
STUDENT = "{kind: flow-unet, name: student, first_round: 1, training: {steps: 5}}"


def with_masks(*folders: Path, more: str = "") -> str:
    masks = [f"{{kind: masks, name: {folder.name}, folder: '{folder}'}}" for folder in folders]
    return f"models=[{', '.join([*masks, STUDENT, *([more] if more else [])])}]"


def take(task: FitTask) -> FitResult:
    found = take_folder(task, task.model, given_or_fail(task))  # type: ignore[arg-type]
    assert found is not None
    return found


def cells(paths: RunPaths, model: str, split: str) -> dict[str, int | None]:
    rows = shards.read_folder(paths.predictions(0, model, split))
    return {row.image_id: None if row.instances is None else len(row.instances) for row in rows}


def test_masks_alone_teach_with_labels_for_validation_only(tmp_path: Path) -> None:
    """No human training image at all: round 0 is the teacher's own score, its student learns from what passed."""
    known = truth(config_at(tmp_path, *ONE))
    folder = write_masks(tmp_path / "tool", known.values(), every_other)
    alone = (*ONE, with_masks(folder), "data.labelled_limit=0", "data.limit_rest=unlabelled")
    with pytest.raises(RunError, match=r"too many cells of its class are missed.*raise filter.max_wrong_background"):
        bring(config_at(tmp_path / "guarded", *alone), 1)
    config = config_at(tmp_path, *alone, "filter.max_wrong_background=1")  # half of the cells are in no mask
    paths, watcher = bring(config, 1)

    first, second = read_manifests(paths).values()
    assert (first.students, first.steps, first.predicts) == (("tool",), 0, False) and second.steps == 5
    rows = {(row.round, row.model): row for row in leaderboard.read(paths.leaderboard)}
    half = [-(-len(r.instances) // 2) / len(r.instances) for r in known.values() if r.split == "test"]  # of the cells
    assert rows[0, "tool"].test_map.value == pytest.approx(np.mean(half), abs=OVERLAP)
    assert rows[0, "tool"].precision50 == 1 and rows[0, "tool"].change is None
    assert (1, "control") not in rows
    assert "round 1: no control can be trained: there are no human training images" in watcher.notes
    taught = read_manifest(paths.train(1)).merged
    assert (taught.human_images, taught.human_cells) == (0, 0) and taught.pseudo_images > 0
    pool = [record for record in known.values() if record.split in ("labelled", "unlabelled")]
    assert taught.cells == {"accepted": sum(-(-len(record.instances) // 2) for record in pool)}
    # The folder cannot predict new images: its students are delivered even where they are not better.
    assert not second.decision.promoted and delivered_model(paths) == (1, "ensemble")
    assert delivered(paths).members == ("student",)
    assert "the masks of its teachers are not beaten, but they predict no new image" in read_verdict(paths)
    again, skipped = bring(config, 1)
    assert again.root == paths.root and not skipped.begun


def test_round_0_of_masks_delivers_nothing_and_says_so(tmp_path: Path) -> None:
    folder = write_masks(tmp_path / "tool", truth(config_at(tmp_path, *ONE)).values())
    paths, _ = bring(config_at(tmp_path, *ONE, with_masks(folder)), 0)
    assert read_verdict(paths).startswith("No model predicts new images yet: the teachers of round 0 are masks")
    with pytest.raises(RunError, match="no model predicts new images yet"):
        delivered(paths)


def test_an_image_that_the_masks_lack_is_missing_and_not_empty(tmp_path: Path) -> None:
    known = truth(config_at(tmp_path, *ONE))
    lacking = {next(i for i, r in known.items() if r.split == split) for split in ("unlabelled", "val", "test")}
    folder = write_masks(tmp_path / "tool", (r for i, r in known.items() if i not in lacking))
    empty = write_masks(tmp_path / "blind", known.values(), nothing)
    paths, watcher = bring(config_at(tmp_path, *ONE, with_masks(folder, empty)), 1)
    for split in ("unlabelled", "val", "test"):
        found = cells(paths, "tool", split)
        assert {i for i, count in found.items() if count is None} == lacking & set(found) and len(found) > 2
        if split != "unlabelled":  # where it does not teach
            assert set(cells(paths, "blind", split).values()) == {0}, "it has looked there and found nothing"
        fused = cells(paths, "ensemble", split)
        assert {i for i, count in fused.items() if count is None} == lacking & set(fused)
    assert f"tool on val, 1 times: {MISSING}" in watcher.notes
    rows = {(row.round, row.model): row for row in leaderboard.read(paths.leaderboard)}
    assert (rows[0, "tool"].val_images, rows[0, "tool"].test_images) == (7, 2)
    assert rows[0, "tool"].test_map.value == pytest.approx(1, abs=OVERLAP)
    assert rows[1, "ensemble"].test_images == 3 and rows[1, "ensemble"].change_images == 2
    assert "on the 7 of 8 images that both have" in read_manifests(paths)[1].decision.reason
    assert read_manifest(paths.train(1)).merged.left_out["not predicted"] == 1


def test_a_teacher_that_finds_nothing_on_validation_is_left_out_and_named(tmp_path: Path) -> None:
    known = truth(config_at(tmp_path, *ONE))
    good, blind = (
        write_masks(tmp_path / "good", known.values()),
        write_masks(tmp_path / "blind", known.values(), nothing),
    )
    paths, watcher = bring(config_at(tmp_path, *ONE, with_masks(good, blind)), 0)
    manifest = read_manifests(paths)[0]
    assert manifest.students == ("good",) and "all students but blind, with a precision" in manifest.why_these_students
    there = sum(len(r.instances) for r in known.values() if r.split == "val")
    said = f"on validation images 0 of its 0 predictions are right, of {there} cells"
    assert f"round 0: blind is left out of the ensemble: {said}" in watcher.notes
    assert {row.model for row in leaderboard.read(paths.leaderboard)} == {"good", "blind", "ensemble"}


def test_masks_without_a_validation_image_do_not_teach_and_have_the_row_that_they_can(tmp_path: Path) -> None:
    known = truth(config_at(tmp_path, *ONE))
    rest = write_masks(tmp_path / "rest", (r for r in known.values() if r.split != "val"))
    good = write_masks(tmp_path / "good", known.values())
    paths, watcher = bring(config_at(tmp_path / "two", *ONE, with_masks(good, rest)), 0)
    assert read_manifests(paths)[0].students == ("good",)
    assert "round 0: rest does not teach: it has masks of no validation image" in watcher.notes
    rows = {row.model: row for row in leaderboard.read(paths.leaderboard)}
    assert rows["rest"].val_map is None and rows["rest"].test_map.value == pytest.approx(1, abs=OVERLAP)
    header, shown = leaderboard.display_rows([rows["rest"], rows["good"]])
    assert shown[0][header.index("rank")] == "-" == shown[0][header.index("val mAP (chosen on, n = 8)")]
    with pytest.raises(RunError, match="no teacher has masks of a validation image"):
        bring(config_at(tmp_path / "one", *ONE, with_masks(rest)), 0)


def test_masks_and_a_trained_teacher_teach_together_in_round_1(tmp_path: Path) -> None:
    known = truth(config_at(tmp_path, *ONE))
    folder = write_masks(tmp_path / "tool", known.values(), every_other)
    trained = "{kind: flow-unet, name: unet, training: {steps: 5}}"
    settings = [*ONE, with_masks(folder, more=trained), "fusion.min_votes=1"]
    paths, _ = bring(config_at(tmp_path, *settings), 1)
    calibrations = json.loads(paths.teachers_calibration(1).read_text())["members"]
    assert calibrations.keys() >= {"tool"} and calibrations["tool"]["cell"]["truths"] > 0
    rows = [(row.round, row.model) for row in leaderboard.read(paths.leaderboard)]
    assert (0, "tool") in rows and (1, "tool") not in rows, "it takes part in round 0"
    assert (1, "control") in rows and read_manifests(paths)[1].predicts


def test_wrong_folders_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tool: folder .*absent: there is no such file or folder"):
        bring(config_at(tmp_path, *ONE, with_masks(tmp_path / "absent").replace("name: absent", "name: tool")), 0)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    with pytest.raises(DataError, match="no masks of these images"):
        bring(config_at(tmp_path / "b", *ONE, with_masks(foreign)), 0)


def test_what_an_earlier_run_predicts_is_such_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Label maps of `cellsemi predict`; the images have other names there, and are known by their pixels."""
    monkeypatch.chdir(tmp_path)
    first, _ = bring(config_at(tmp_path / "first", *ONE), 0)
    images = tmp_path / "images"
    for split in ("unlabelled", "val", "test"):
        write_images(first, split, images, "copy-of-{}.png")
    done = invoke("predict", str(images), "--run", str(first.root), "--out", "found", "--min-score", "0",
                  "--format", "label-maps")  # fmt: skip
    assert done.exit_code == 0, done.output
    folder = tmp_path / "found" / "label-maps"
    second, _ = bring(config_at(tmp_path / "second", *ONE, with_masks(folder)), 0)
    for split in ("val", "test"):
        before, after = cells(first, "ensemble", split), cells(second, folder.name, split)
        assert before.keys() == after.keys() and None not in after.values()
        assert sum(map(int, after.values())) > 0


def test_a_run_s_model_teaches_as_it_is_and_starts_no_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_family, "FAMILY", replace(fake_family.FAMILY, take=take))
    first, _ = bring(config_at(tmp_path / "first", *ONE), 0)
    weights = first.model(0, "unet-b")
    given = f"{{kind: flow-unet, name: unet-b, weights: '{weights}', train: false}}"
    settings = [f"models=[{given}, {STUDENT}]", "filter.thresholds={cell: {accept: 0, reject: 0}}"]
    second, watcher = bring(config_at(tmp_path / "second", *ONE, *settings), 1)
    row, same = (next(row for row in leaderboard.read(paths.leaderboard) if (row.round, row.model) == (0, "unet-b"))
                 for paths in (first, second))  # fmt: skip
    assert (same.val_map, same.test_map, same.cutoffs) == (row.val_map, row.test_map, row.cutoffs)
    assert read_manifests(second)[0].steps == 0 and "0: take unet-b" in watcher.begun
    student = next(record for record in read_steps(second) if record.name == "train student")
    assert student.parameters["starts_from"] is None
    control = read_fit(second.model(1, "control"))
    assert control.steps == 5, "there are human training images: as many steps as the student and its ancestors"
    assert delivered(second).members in {("unet-b",), ("student",), ("control",)}


def test_masks_of_no_test_image_have_no_test_score_and_the_verdict_says_so(tmp_path: Path) -> None:
    known = truth(config_at(tmp_path, *ONE))
    folder = write_masks(tmp_path / "tool", (r for r in known.values() if r.split != "test"), every_other)
    config = config_at(tmp_path, *ONE, with_masks(folder))
    paths, watcher = bring(config, 0)
    assert "the teachers of round 0 score on no test image" in read_verdict(paths)
    assert f"tool on test, 3 times: {MISSING}" in watcher.notes
    paths, _ = bring(config, 1)
    rows = {(row.round, row.model): row for row in leaderboard.read(paths.leaderboard)}
    assert rows[0, "ensemble"].test_map is None and rows[0, "ensemble"].f1 is None
    assert rows[1, "ensemble"].test_map is not None and rows[1, "ensemble"].change is None
    assert "the teachers have masks of no test image to compare with" in read_verdict(paths)
    assert invoke("leaderboard", str(paths.root)).exit_code == 0 and invoke("report", str(paths.root)).exit_code == 0
