"""`import cellsemi` offers what a run made, lazily, and predicts as the run does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.applied import records, small_run, write_images
from helpers.terminal import python

import cellsemi
from cellsemi.configs.errors import ImageError, ModelError, UsageError
from cellsemi.orchestrator.api.instances import ENDINGS
from cellsemi.rounds.cells import masks
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.history import delivered_model, read_verdict
from cellsemi.rounds.formats.cellpose.seg_npy import read_seg_npy
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image, decode_label_map


@pytest.fixture
def run(here: Path, fake_models: None) -> cellsemi.Run:
    return cellsemi.open_run(small_run(here).root)


@pytest.fixture
def image(here: Path, run: cellsemi.Run) -> Path:
    return write_images(run._paths, "test", here / "images")[0]


def test_the_import_is_light() -> None:
    heavy = ("torch", "ray", "numpy", "pandas", "pydantic", "cellpose", "pyarrow", "scipy")
    code = f"import sys, cellsemi; print([name for name in {heavy} if name in sys.modules], dir(cellsemi))"
    found = python(code).stdout
    assert found.startswith("[] ") and "'open_run'" in found


def test_every_name_is_there_and_no_other() -> None:
    assert all(getattr(cellsemi, name) is not None for name in cellsemi.__all__)
    assert cellsemi.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="nothing"):
        cellsemi.nothing  # noqa: B018


def test_a_run_is_read(run: cellsemi.Run) -> None:
    table = run.leaderboard()
    rows = leaderboard.read(run._paths.leaderboard)
    assert table["test_map"].tolist() == pytest.approx([row.test_map.value for row in rows])
    assert run.verdict == read_verdict(run._paths) and run.finished_rounds == (0, 1)
    assert repr(run) == "Run(demo: rounds 0 to 1 finished)" and run.config.run.name == "demo"
    assert run.status().finished_rounds == (0, 1)
    round, name = delivered_model(run._paths)
    assert run.delivered.round == round and name in run.delivered.title
    assert run.model(0).round == 0 and run.model(1, "control").members == ("control",)
    assert run.delivered.cutoffs == run.delivered.load().cutoffs


def test_predictions_are_those_of_the_run_bit_for_bit(run: cellsemi.Run, here: Path) -> None:
    model = run.delivered.load(device="cpu")
    round, name = delivered_model(run._paths)
    found = {cells.image_id: cells for cells in model.predict_each(write_images(run._paths, "test", here / "x"))}
    for record in shards.read_folder(run._paths.predictions(round, name, "test")):
        known = record.instances
        assert known is not None
        kept = model.cutoffs.kept(known)
        cells = found[record.image_id]
        assert cells.rle == kept.rle and np.array_equal(cells.score, kept.score)
    assert sum(map(len, found.values())), "no cell was found: nothing was compared"


def test_arrays_are_taken_as_files_are(run: cellsemi.Run, image: Path) -> None:
    model = run.delivered.load()
    pixels = decode_image(image.read_bytes(), "x")
    from_file = model.predict(image)
    for array in (
        pixels,
        pixels[..., None],
        np.stack([pixels] * 3, -1),
        np.stack([pixels] * 4, -1),
        pixels.astype(int),
    ):
        assert model.predict(array).rle == from_file.rle
    for wrong in (pixels[..., None, None], np.zeros((4, 4, 2)), np.full((8, 8), np.nan), np.zeros((0, 4))):
        with pytest.raises(ImageError, match="array"):
            model.predict(wrong)


def test_a_minimum_takes_the_place_of_the_chosen_one(run: cellsemi.Run, image: Path) -> None:
    model = run.delivered.load()
    everything = model.predict(image, min_score=0)
    assert len(everything) > len(model.predict(image, min_score=dict.fromkeys(model.classes, 0.5)))
    assert len(model.predict(image)) == len(model.cutoffs.kept(everything))
    large = model.predict(image, min_score=0, min_area_px=40)
    assert len(large) == int((everything.area >= 40).sum()) < len(everything)


def test_cells_print_themselves(run: cellsemi.Run, image: Path) -> None:
    cells = run.delivered.load().predict(image, min_score=0)
    counts = {name: cells.class_names().count(name) for name in cells.class_names()}
    assert repr(cells).startswith(f"Instances({len(cells)} cells, 64x80, {{")
    assert all(f"{name}: {count}" in repr(cells) for name, count in counts.items())
    assert repr(cellsemi.Instances.empty(3, 4)) == "Instances(0 cells, 3x4, {})"
    picture = decode_image(cells._repr_png_(), "x")
    assert picture.shape == (64, 80, 3)
    assert isinstance(cells.select([0]), cellsemi.ImageInstances) and cells.select([0]).classes == cells.classes


def test_cells_are_measured(run: cellsemi.Run, image: Path) -> None:
    cells = run.delivered.load().predict(image, min_score=0)
    table = cells.table()
    assert table["area_px"].tolist() == cells.area.tolist() and table["class"].tolist() == cells.class_names()
    assert set(np.unique(cells.label_map())) <= set(range(len(cells) + 1))


def test_cells_are_saved_in_every_format(run: cellsemi.Run, image: Path, here: Path) -> None:
    cells = run.delivered.load().predict(image)
    for ending in ENDINGS:
        path = cells.save(here / f"saved{ending}")
        assert path.stat().st_size, ending
    assert (decode_label_map((here / "saved.tif").read_bytes(), "x") > 0).sum() == (cells.label_map() > 0).sum()
    assert len(json.loads((here / "saved.json").read_text())["annotations"]) == len(cells)
    record = records(run._paths, "test")[0]
    loaded = read_seg_npy((here / "saved_seg.npy").read_bytes(), "x", record).cells
    assert len(loaded) == len(cells)
    with pytest.raises(UsageError, match="geojson"):
        cells.save("cells.xyz")


def test_cells_of_an_array_are_saved_too(run: cellsemi.Run, image: Path, here: Path) -> None:
    cells = run.delivered.load().predict(decode_image(image.read_bytes(), "x").astype(np.float32))
    for ending in ENDINGS:
        assert cells.save(here / f"array{ending}").stat().st_size


def test_scores(here: Path) -> None:
    labels = np.zeros((40, 40), int)
    labels[2:12, 2:12], labels[20:30, 20:30] = 1, 7
    one = np.where(labels == 1, 1, 0)
    found = cellsemi.score(one, labels)
    assert (found.precision, found.recall, found.map) == (1.0, 0.5, 0.5)
    assert cellsemi.score([one, labels], [labels, labels]).map == 0.75
    cells = masks.from_label_map(labels)
    assert cellsemi.score(cells, labels).map == 1.0 and cellsemi.score(cells, labels).class_map == {"cell": 1.0}
    named = [cellsemi.ImageInstances.of(cells.with_(class_id=[0, 1]), names) for names in (("a", "b"), ("b", "a"))]
    assert cellsemi.score(*named).class_map == {"b": 0.0, "a": 0.0}
    with pytest.raises(ValueError, match="zip"):
        cellsemi.score([one], [labels, labels])
    with pytest.raises(UsageError, match="no such file"):
        cellsemi.score("none.tif", labels)
    with pytest.raises(ImageError, match="a mask of foreground"):
        cellsemi.score((labels > 0).astype(int), labels)


def test_fusion() -> None:
    labels = np.zeros((40, 40), int)
    labels[2:12, 2:12], labels[20:30, 20:30] = 1, 2
    a = masks.from_label_map(labels)
    b = masks.from_label_map(np.where(labels == 1, 1, 0))
    assert cellsemi.fuse({"a": a, "b": b}).votes.tolist() == [2, 1]
    assert len(cellsemi.fuse({"a": a, "b": b}, min_votes=2)) == 1
    known = cellsemi.ImageInstances.of(a, ("cell",), "image7")
    fused = cellsemi.fuse({"a": known, "b": b}, iou=0.5, method="nms")
    assert isinstance(fused, cellsemi.ImageInstances) and fused.image_id == "image7"


def test_rounds_are_run_and_gone_on_with(here: Path, fake_models: None) -> None:
    sizes = {f"data.generated.{name}": 3 for name in ("labelled", "unlabelled", "val", "test")}
    settings = {**sizes, "data.generated.height_px": 64, "data.generated.width_px": 80, "engine.min_free_mb": 0}
    run = cellsemi.run_rounds("demo", 0, settings=settings, engine="inline")
    assert run.finished_rounds == (0,) and run.folder == (here / "runs" / "demo").resolve()
    assert cellsemi.run_rounds("demo", 1, settings=settings, engine="inline").finished_rounds == (0, 1)
    with pytest.raises(UsageError, match="another config"):
        cellsemi.run_rounds("demo", 1, settings={**settings, "run.seed": 4}, engine="inline")


def test_what_is_not_there_is_an_error(here: Path) -> None:
    with pytest.raises(UsageError, match="no run"):
        cellsemi.open_run("nothing")
    with pytest.raises(ModelError, match="export"):
        cellsemi.load_model(here)
    assert issubclass(UsageError, cellsemi.CellsemiError)
