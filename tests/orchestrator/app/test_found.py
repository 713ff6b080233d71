"""The cells of an image under limits that move: what is kept, why, and what is drawn and written of it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.applied import records, small_run, write_images, write_labels
from hypothesis import given
from hypothesis import strategies as st

import cellsemi
from cellsemi.configs.errors import DataError, UsageError
from cellsemi.configs.formats import WRITABLE
from cellsemi.orchestrator.app.cells_tab import Shown, choose_at, draw, limits_for, place_of
from cellsemi.orchestrator.app.downloads import write_download
from cellsemi.orchestrator.app.found import KEPT, LOW, SMALL, Found, counts, kept, kept_cells, why
from cellsemi.orchestrator.app.labels import compare, read_labels
from cellsemi.orchestrator.app.models import RECOMMENDED, Models
from cellsemi.orchestrator.app.view import LEAST_PX, MOST_PX, View, cell_at, in_one_colour
from cellsemi.orchestrator.explain.reasons import CellRow
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.schemas import ImageRecord


@pytest.fixture
def paths(here: Path, fake_models: None) -> RunPaths:
    return small_run(here)


def squares(scores: list[float], areas: list[int], classes: list[int], free: list[bool] | None = None) -> Found:
    """Cells of one row of pixels each, below one another."""
    height, width = 2 * len(scores) + 1, 40
    labels = np.zeros((height, width), np.int32)
    for i, area in enumerate(areas):
        labels[2 * i + 1, 1 : 1 + area] = i + 1
    cells = masks.from_label_map(labels, score=scores, class_id=classes)
    rows = [
        CellRow(i + 1, True, "covered", "ab"[c], s, 0.0, a, 1, 1, 1.0, "m", 0, 0, None)
        for i, (s, a, c) in enumerate(zip(scores, areas, classes, strict=True))
    ]
    may = np.ones(len(scores), bool) if free is None else np.array(free)
    view = View.of(np.zeros((height, width, 3), np.uint8))
    colours = ((200, 0, 0),) * len(scores)
    start = Cutoffs((0.5, 0.5), (0, 0))
    record = ImageRecord("im", height, width, "")
    return Found(
        "the model", record, np.zeros((height, width)), view, ("a", "b"), cells, tuple(rows), may, colours, start, ()
    )


CELL = st.tuples(st.floats(0, 1, width=32), st.integers(1, 38), st.integers(0, 1), st.booleans())


@given(st.lists(CELL, min_size=1, max_size=8), st.tuples(*[st.floats(0, 1)] * 2), st.tuples(*[st.integers(0, 40)] * 2))
def test_a_cell_is_kept_when_score_and_area_reach_the_limits_of_its_class(
    cells: list[tuple[float, int, int, bool]], scores: tuple[float, float], areas: tuple[int, int]
) -> None:
    """Cell by cell in plain Python, float32 against float32 as `cellsemi predict` compares."""
    found = squares(*map(list, zip(*cells, strict=True)))  # type: ignore[arg-type]
    limits = Cutoffs(scores, areas)
    expected, table = [], {name: {KEPT: 0, LOW: 0, SMALL: 0} for name in "ab"}
    for score, area, class_id, free in cells:
        enough = np.float32(score) >= np.float32(scores[class_id])
        expected.append(free and bool(enough) and area >= areas[class_id])
        if free:
            table["ab"[class_id]][LOW if not enough else SMALL if area < areas[class_id] else KEPT] += 1
    assert kept(found, limits).tolist() == expected
    assert {row["class"]: {name: row[name] for name in (KEPT, LOW, SMALL)} for row in counts(found, limits)} == table
    for i, stays in enumerate(expected):
        assert ("Kept" in why(found, limits, i)) == stays


def test_why_names_the_limit_that_decided() -> None:
    found = squares([0.3, 0.8, 0.9, 0.9], [9, 3, 9, 9], [0, 0, 0, 0], [True, True, True, False])
    limits = Cutoffs((0.5, 0.5), (5, 5))
    words = [why(found, limits, i) for i in range(4)]
    assert "its score is below 0.500" in words[0] and "fewer than 5 px" in words[1] and "Kept" in words[2]
    assert words[3].endswith("Dropped: covered.")


def test_at_the_start_the_cells_are_those_of_predict_and_an_image_is_predicted_once(
    paths: RunPaths, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image, *_) = write_images(paths, "test", here / "images")
    models = Models(paths, [], "cpu")
    found, known = models.find(RECOMMENDED, image)
    model = cellsemi.open_run("demo").delivered.load("cpu")
    assert not known and sorted(kept_cells(found, found.start).rle) == sorted(model.predict(image).rle)
    middle = float(np.median(found.cells.score))
    expected = model.predict(image, min_score=middle)
    assert sorted(kept_cells(found, Cutoffs((middle,) * 3, (0,) * 3)).rle) == sorted(expected.rle) and len(expected)
    monkeypatch.setattr("cellsemi.orchestrator.app.models.find_cells", None)
    assert models.find(RECOMMENDED, image) == (found, True)
    by_id, _ = models.find(RECOMMENDED, records(paths, "test")[0].image_id)
    assert by_id is found


def test_the_models_are_those_of_the_run_and_of_exported_folders(paths: RunPaths, here: Path) -> None:
    from helpers.terminal import invoke

    assert invoke("model", "export", "demo", "--out", "m").exit_code == 0
    (image, *_) = write_images(paths, "test", here / "images")
    models = Models(paths, [Path("m")], "cpu")
    found = {}
    for label, key in models.choices():
        found[label] = models.find(key, image)[0]
    assert next(iter(found)) == "what demo recommends" and list(found)[-1] == "exported: m"
    assert found["exported: m"].cells.rle == found["what demo recommends"].cells.rle
    assert found["round 0, ensemble"].title == "the ensemble of round 0 of demo"
    alone = Models(None, [Path("m")], "cpu")
    assert [key for _, key in alone.choices()] == ["folder/0"]
    with pytest.raises(UsageError, match="an id names an image of a run"):
        alone.find("folder/0", "test-00000")


def test_labels_of_every_kind_of_file_compare_alike(paths: RunPaths, here: Path) -> None:
    """The human cells themselves, written and read again: as good as the score of the same cells says."""
    (image, *_) = write_images(paths, "test", here / "images")
    write_labels(paths, "test", here / "labels")
    found, _ = Models(paths, [], "cpu").find(RECOMMENDED, image)
    cells, everything = cellsemi.open_run("demo").delivered.load("cpu").predict(image, min_score=0), found.start
    everything = Cutoffs((0.0,) * 3, (0,) * 3)
    expected = cellsemi.score(cells, here / "labels" / f"{image.stem}_masks.tif")
    truth = records(paths, "test")[0].instances
    assert truth is not None
    human = cellsemi.ImageInstances.of(truth, found.classes, image.stem, found.pixels, str(image))
    for name in ("other.geojson", "x_seg.npy", "rois.zip", "some.json", "map.tif"):
        human.save(here / name)
        result = compare(found, everything, read_labels(here / name, found.record))
        assert result.score.total.ap == pytest.approx(expected.map), name
        shared = len(result.outcome.right) / len(cells)
        assert shared == pytest.approx(expected.precision), name
        assert f"mAP of this image: {expected.map:.3f}" in result.sentence()


def test_a_file_without_labels_of_the_image_is_refused(paths: RunPaths, here: Path) -> None:
    (image, *_) = write_images(paths, "test", here / "images")
    found, _ = Models(paths, [], "cpu").find(RECOMMENDED, image)
    tifffile.imwrite(here / "small.tif", np.zeros((4, 4), np.uint16))
    Path("table.csv").write_text("a,b\n1,2\n")
    for name, words in (("small.tif", "4x4"), ("table.csv", "not a file that lists a data set")):
        with pytest.raises(DataError, match=words):
            read_labels(here / name, found.record)


@pytest.mark.parametrize("name", WRITABLE)
def test_every_format_of_predict_can_be_downloaded(paths: RunPaths, here: Path, name: str) -> None:
    (image, *_) = write_images(paths, "test", here / "images")
    found, _ = Models(paths, [], "cpu").find(RECOMMENDED, image)
    path, _ = write_download(found, found.start, name, here / "out")
    content = path.read_bytes()
    assert content and path.parent.parent == here / "out"
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as packed:
            assert any(image.stem in each for each in packed.namelist())


# --- pictures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(30, 50), (800, 600), (3000, 1500), (1, 1)])
def test_a_picture_has_the_size_of_a_screen_and_points_lead_back(height: int, width: int) -> None:
    view = View.of(np.zeros((height, width, 3), np.uint8))
    h, w = view.ground.shape[:2]
    assert LEAST_PX <= max(h, w) <= MOST_PX and abs(h / w - height / width) < 0.01
    for x, y in ((0, 0), (width - 1, height - 1), (width // 2, height // 3)):
        assert view.pixel((x + 0.5) * w / width, (y + 0.5) * h / height) == (x, y)
    assert view.pixel(w + 5, -3) == (width - 1, 0)


def test_a_layer_fills_its_cells_and_leaves_the_rest() -> None:
    labels = np.zeros((64, 64), np.int32)
    labels[10:30, 10:30] = 1
    view = View.of(np.full((64, 64, 3), 100, np.uint8))
    drawn = view.draw([in_one_colour(masks.from_label_map(labels), (200, 0, 100), 0.5)])
    inside = View.of(np.repeat((labels > 0)[..., None], 3, 2).astype(np.uint8) * 255).ground[..., 0]
    assert (drawn[inside == 0] == 100).all()
    assert drawn[200, 200].tolist() == [150, 50, 100] and (drawn == (200, 0, 100)).all(axis=2).any()
    assert (view.ground == 100).all()  # the ground itself stays


def test_the_smallest_cell_under_a_point_is_chosen_and_a_dropped_one_only_where_it_is_drawn() -> None:
    big, small = np.zeros((20, 20), bool), np.ones((4, 4), bool)
    big[2:18, 2:18] = True
    cells = masks.from_crops(20, 20, [(big, 0, 0), (small, 8, 8)], score=[0.9, 0.2])
    assert cell_at(cells, [0, 1], 9, 9) == 1 and cell_at(cells, [0], 9, 9) == 0
    assert cell_at(cells, [0, 1], 3, 3) == 0 and cell_at(cells, [0, 1], 0, 0) is None
    assert cell_at(Instances.empty(20, 20), [], 3, 3) is None
    found = squares([0.9, 0.2], [30, 30], [0, 0])
    shown, limits = Shown(found=found), Cutoffs((0.5, 0.5), (0, 0))
    point = [v * s for v, s in zip((10.5, 3.5), np.array(found.view.ground.shape[1::-1]) / (40, 5), strict=True)]
    choose_at(shown, limits, False, *point)
    assert shown.chosen is None
    choose_at(shown, limits, True, *point)
    assert shown.chosen == 1
    drawn, summary, cell = draw(shown, limits, True)
    assert drawn.shape == found.view.ground.shape and "1 of 2 cells kept" in summary and "Cell 2" in cell


def test_a_number_that_is_typed_names_a_cell() -> None:
    typed = [place_of(text, 12) for text in (" 12 ", "1", "0", "13", "", "-1", "two", "²")]
    assert typed == [11, 0, None, None, None, None, None, None]


def test_limits_are_those_of_the_classes_that_the_model_knows() -> None:
    """The sliders stand for the classes of all models, the scores first."""
    found = squares([0.5], [3], [0])
    assert limits_for(found, ("b", "c", "a"), [0.1, 0.2, 0.3, 10, 20, 30]) == Cutoffs((0.3, 0.1), (30, 10))
