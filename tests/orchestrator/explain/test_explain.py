"""`cellsemi explain`: the cells are those of predict, and the run says what it knows of the image."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.applied import records, small_run, write_images
from helpers.terminal import invoke
from PIL import Image

import cellsemi
from cellsemi.configs.errors import RunError, UsageError
from cellsemi.rounds.evaluation.history import RoundManifest
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.run import RunPaths


@pytest.fixture
def paths(here: Path, fake_models: None) -> RunPaths:
    return small_run(here)


def test_the_cells_that_are_kept_are_those_of_predict(paths: RunPaths, here: Path) -> None:
    (image, *_) = write_images(paths, "test", here / "images")
    everything = cellsemi.explain(image, run="demo", min_score=0.0)
    assert all(row.kept for row in everything.rows)
    middle = float(np.median(everything.cells.score))
    found = cellsemi.explain(image, run="demo", min_score=middle, device="cpu")
    expected = cellsemi.open_run("demo").delivered.load("cpu").predict(image, min_score=middle)
    order = np.argsort(-expected.score, kind="stable")
    assert found.kept.rle == expected.select(order).rle and len(found.kept)
    assert np.array_equal(found.kept.score, expected.score[order])
    assert len(found.rows) > len(found.kept) == found.table()["kept"].sum()
    assert found.known is not None and found.known.split == "test" and found.table()["truth_iou"].notna().all()


def test_an_image_of_the_pool_shows_what_the_filter_said(paths: RunPaths) -> None:
    stored = {record.image_id: record for record in shards.read_folder(paths.pseudo(1))}
    image_id = max(stored, key=lambda name: len(stored[name].instances or ()))
    found = cellsemi.explain(image_id, run="demo")
    assert found.known is not None and found.known.truth is None
    (pseudo,) = found.known.pseudo
    cells = stored[image_id].instances
    assert cells is not None and pseudo.cells is not None and len(pseudo.rows) == len(cells) > 0
    assert [(row.state, row.reason) for row in pseudo.rows] == list(zip(cells.state, cells.reason, strict=True))
    assert [row.weight for row in pseudo.rows] == pytest.approx(cells.weight.tolist())
    assert any("later models learned from its accepted pseudo-labels" in note for note in found.notes)
    assert cellsemi.explain(image_id, run="demo", round=0).known.pseudo == ()  # type: ignore[union-attr]


def test_a_round_is_explained_instead_of_what_is_recommended(paths: RunPaths) -> None:
    image_id = records(paths, "val")[0].image_id
    found = cellsemi.explain(image_id, run="demo", round=0)
    assert found.model == "the ensemble of round 0 of demo"
    assert set(found.members) == set(RoundManifest.read(paths.round_manifest(0)).students)
    assert "Thresholds and models were chosen on this image." in found.notes
    with pytest.raises(RunError):
        cellsemi.explain(image_id, run="demo", round=7)


def test_an_exported_model_needs_no_run(paths: RunPaths, here: Path) -> None:
    assert invoke("model", "export", "demo", "--out", "m").exit_code == 0
    (image, *_) = write_images(paths, "labelled", here / "images")
    found = cellsemi.explain(image, model="m")
    assert found.known is None and {row.truth_iou for row in found.rows} == {None}
    assert any("The models learned from this image" in note for note in found.notes)
    assert cellsemi.load_model("m").explain(image).kept.rle == found.kept.rle
    with pytest.raises(UsageError, match="--round"):
        cellsemi.explain(image, model="m", round=1)
    with pytest.raises(UsageError, match="--run and --model"):
        cellsemi.explain(image, model="m", run="demo")


def test_what_is_neither_a_file_nor_an_image_of_the_run_is_refused(paths: RunPaths) -> None:
    with pytest.raises(UsageError, match="no such file, and no image of the run demo"):
        cellsemi.explain("nothing.tif", run="demo")


def test_the_folder_holds_a_page_with_all_its_pictures(paths: RunPaths, here: Path) -> None:
    image_id = records(paths, "unlabelled")[0].image_id
    done = invoke("explain", image_id, "--run", "demo", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    out = here / "explained" / image_id
    assert Path(said["out"]).resolve() == out.resolve()
    page = (out / "index.html").read_text("utf-8")
    assert {*re.findall(r'(?:src|href)="([^"]+)"', page), "index.html", "cells.md"} == {p.name for p in out.iterdir()}
    assert "shows nothing of its network" in page
    for picture in out.glob("*.png"):
        with Image.open(picture) as opened:
            assert min(opened.size) > 100
    with (out / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == said["cells"] and sum(row["kept"] == "True" for row in rows) == said["kept"]
    assert len((out / "cells.md").read_text().splitlines()) == len(rows) + 4
    assert (out / "pseudo-labels.csv").is_file()
    assert invoke("explain", image_id, "--run", "demo").exit_code == 0  # in the place of the earlier one


def test_a_folder_with_other_files_is_not_written_over(paths: RunPaths, here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "notes.txt").write_text("x")
    done = invoke("explain", records(paths, "val")[0].image_id, "--run", "demo", "--out", "mine")
    assert isinstance(done.exception, UsageError) and "holds other files" in str(done.exception)
    assert [path.name for path in (here / "mine").iterdir()] == ["notes.txt"]


def test_a_large_image_of_no_run_is_explained(paths: RunPaths, here: Path) -> None:
    tifffile.imwrite(here / "large.tif", np.random.default_rng(0).integers(0, 999, (900, 2600)).astype(np.uint16))
    done = invoke("explain", "large.tif", "--run", "demo", "--out", "large")
    assert done.exit_code == 0, done.output
    assert sum(path.stat().st_size for path in (here / "large").iterdir()) < 30_000_000
