"""Partly labelled images: what nobody labelled is marked exactly, and neither learnt nor scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError
from scipy import ndimage

from cellsemi.configs.data import DataConfig, PartialConfig
from cellsemi.configs.errors import DataError
from cellsemi.configs.schema import Config
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instance_map import IGNORE, NOT_LABELLED, draw_instance_map
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.ingest import ingest
from cellsemi.rounds.datasets.ingest_report import IngestReport, sentences
from cellsemi.rounds.datasets.open import list_data
from cellsemi.rounds.formats.base import Item, Loaded
from cellsemi.rounds.formats.shared.partly_labelled import cells_alone, mark_not_labelled, not_labelled
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.shards import read_folder

SHAPE = (24, 32)
LABELS = np.zeros(SHAPE, np.uint16)
LABELS[2:7, 3:9], LABELS[10:15, 20:28] = 1, 2
NOT_SEEN = 500
MAPS = hnp.arrays(np.uint16, (6, 7), elements=st.sampled_from([0, 0, 1, 2, 3, 4]))


def rectangle(y0: int, y1: int, x0: int, x1: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.zeros(SHAPE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def item(classes: dict[str, Any], split: str = "labelled") -> Item:
    """An image with masks of classes: name -> list of bool (H, W)."""
    names = tuple(classes)
    each = [(mask, i) for i, name in enumerate(names) for mask in classes[name]]
    cells = masks.from_crops(*SHAPE, [(mask, 0, 0) for mask, _ in each], class_id=[i for _, i in each], state="human")
    record = ImageRecord("a", *SHAPE, "labelled", instances=cells)
    return Item("a", split, "a.json", lambda: Loaded(record, names))  # type: ignore[arg-type]


def marked(given: Item, **settings: Any) -> Loaded:
    """The image as it is loaded with `data.partial`."""
    (found,) = mark_not_labelled([given], PartialConfig(**settings))
    return found.load()


def cells_of(loaded: Loaded) -> Instances:
    assert loaded.record.instances is not None
    return loaded.record.instances


def taught(loaded: Loaded, dilation_px: int = 3) -> Any:
    return draw_instance_map(cells_of(loaded), dilation_px)


CELL, OTHER, TRAINING = rectangle(2, 7, 3, 9), rectangle(10, 15, 20, 28), rectangle(0, 12, 0, 16)


def test_outside_of_a_region_nothing_is_taught_and_the_region_is_no_cell() -> None:
    loaded = marked(item({"Training": [TRAINING], "cell": [CELL, OTHER]}), regions="Training")
    assert loaded.classes == ("cell",)
    assert [*cells_of(loaded).state] == ["human", "human", "ignored"]
    expected = np.where(TRAINING, 0, IGNORE)
    expected[CELL], expected[OTHER] = 1, 2  # a cell that is drawn outside of the region is known
    assert np.array_equal(taught(loaded), expected)


def test_an_image_without_a_region_is_whole() -> None:
    loaded = marked(item({"cell": [CELL]}), regions=["Training", "Validation"])
    assert not not_labelled(cells_of(loaded)).any()
    assert np.array_equal(taught(loaded), np.where(CELL, 1, 0))


def test_of_images_with_only_some_cells_just_cells_background_and_ring_teach() -> None:
    free = rectangle(18, 24, 0, 10)
    loaded = marked(
        item({"cell": [CELL], "Background": [free]}), only_cells=["labelled"], background="Background", ring_px=2
    )
    ring = ndimage.binary_dilation(CELL, iterations=2)
    assert np.array_equal(taught(loaded), np.where(CELL, 1, np.where(ring | free, 0, IGNORE)))


def test_other_splits_than_those_of_only_cells_are_whole() -> None:
    loaded = marked(item({"cell": [CELL]}, "val"), only_cells=["labelled"])
    assert not not_labelled(cells_of(loaded)).any()


def test_a_cell_over_an_outline_of_background_stays_a_cell() -> None:
    loaded = marked(item({"cell": [CELL], "Background": [TRAINING]}), background=["Background"])
    assert np.array_equal(taught(loaded), np.where(CELL, 1, 0))


@given(MAPS, MAPS, st.integers(0, 3))
def test_what_is_not_labelled_never_covers_a_cell(labels: Any, areas: Any, ring_px: int) -> None:
    """Regions 3 and background 4 of one map over the cells 1 and 2 of another, against the sentence of the docs."""
    drawn = {"cell": [labels == 1, labels == 2], "R": [areas == 3], "B": [areas == 4]}
    cells = [(mask, i) for i, name in enumerate(drawn) for mask in drawn[name] if mask.any()]
    found = masks.from_crops(6, 7, [(m, 0, 0) for m, _ in cells], class_id=[i for _, i in cells], state="human")
    given_item = Item("a", "labelled", "", lambda: Loaded(ImageRecord("a", 6, 7, "", instances=found), tuple(drawn)))
    loaded = marked(given_item, regions="R", background="B", only_cells=True, ring_px=ring_px)
    cell = (labels == 1) | (labels == 2)
    near = ndimage.binary_dilation(cell, iterations=ring_px) if ring_px and cell.any() else cell
    known = near | (areas == 3) | (areas == 4)
    assert np.array_equal(taught(loaded) == IGNORE, ~known)
    assert np.array_equal(taught(loaded) > 0, cell)


def test_a_prediction_where_nobody_looked_is_neither_right_nor_wrong() -> None:
    truth = cells_of(marked(item({"Training": [TRAINING], "cell": [CELL]}), regions="Training"))
    wrong = rectangle(8, 11, 2, 8)
    predicted = masks.from_crops(*SHAPE, [(mask, 0, 0) for mask in (CELL, OTHER, wrong)])
    kept, known = scorable(predicted, truth)
    assert kept.rle == (predicted.rle[0], predicted.rle[2]) and len(known) == 1


def test_the_class_of_regions_may_be_the_first_and_dropped_names_do_not_take_the_mark() -> None:
    loaded = marked(item({"Area": [], "Training": [TRAINING], "cell": [CELL]}), regions="Training")
    names = ClassNames(DataConfig(class_map={"Area": "drop"}))
    found = names.apply(loaded, item({}))
    assert found is not None and [*found.state] == ["human", "ignored"] and found.reason[1] == NOT_LABELLED


def test_cells_without_a_class_beside_regions_have_none() -> None:
    config = PartialConfig(regions=("Training",))
    assert cells_alone(("Training", "unclassified"), config) == ()
    assert cells_alone(("cell", "unclassified"), config) == ("cell", "unclassified")
    assert cells_alone(("unclassified",), config) == ("unclassified",)


# --- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("all", {"only_cells": ("labelled", "val", "test")}),
        (500, {"value": 500}),
        ("Training", {"regions": ("Training",)}),
        (["Training", "Validation"], {"regions": ("Training", "Validation")}),
        ({"only_cells": False}, {}),
    ],
)
def test_short_forms(short: Any, long: dict[str, Any]) -> None:
    assert DataConfig(partial=short).partial == PartialConfig(**long)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"regions": "A", "background": "A"}, "A cannot be a class of regions and of background"),
        ({"ring_px": 3}, "ring_px goes with only_cells"),
        ({"value": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_contradict_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PartialConfig(**wrong)


# --- data sets ----------------------------------------------------------------------------------------


def feature(name: str | None, y0: int, y1: int, x0: int, x1: int) -> dict[str, Any]:
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    properties = {"objectType": "annotation"} | ({"classification": {"name": name}} if name else {})
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def build(root: Path, annotations: list[bytes], ending: str) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for i, content in enumerate(annotations):
        image = np.random.default_rng(i).integers(0, 256, SHAPE, np.uint8)
        (root / "images" / f"im{i}.png").write_bytes(to_png(image))
        (root / "masks" / f"im{i}{ending}").write_bytes(content)
    return root


def read(root: Path, out: Path, **settings: Any) -> tuple[IngestReport, list[str], list[ImageRecord]]:
    config = Config(data=DataConfig(source="paired", root=str(root), mask_suffix="", **settings))
    report = ingest(config, out, "hash", lambda split, done, of: None)
    records = [record for split in ("labelled", "val", "test") for record in read_folder(out / split)]
    return report, sentences(report, config.data), records


def test_a_value_of_label_maps_is_what_was_not_labelled(tmp_path: Path) -> None:
    half = LABELS.copy()
    half[:, 16:] = NOT_SEEN
    half[0, 0] = NOT_SEEN
    root = build(tmp_path / "data", [to_png(LABELS), to_png(half), to_png(LABELS), to_png(half)], ".png")
    report, lines, records = read(root, tmp_path / "out", partial=NOT_SEEN)
    assert "2 images are labelled in part (data.partial): the rest of them is neither learnt nor scored" in lines
    assert sum(report.ignored.values()) == 0 and sum(report.cells.values()) == 6
    by_id = {record.image_id: record.instances for record in records}
    drawn = draw_instance_map(by_id["im1"], 2)  # type: ignore[arg-type]
    assert np.array_equal(drawn == IGNORE, half == NOT_SEEN)


def test_qupath_rectangles_are_regions(tmp_path: Path) -> None:
    cells = [feature(None, 2, 7, 3, 9), feature(None, 8, 11, 4, 9), feature(None, 2, 6, 11, 15)]
    content = json.dumps({"type": "FeatureCollection", "features": [*cells, feature("Training", 0, 12, 0, 16)]})
    root = build(tmp_path / "data", [content.encode()] * 4, ".geojson")
    report, lines, records = read(root, tmp_path / "out", partial=["Training", "Validation"])
    assert any("4 images are labelled in part" in line for line in lines) and sum(report.cells.values()) == 12
    cells_read = records[0].instances
    assert cells_read is not None
    assert np.array_equal(draw_instance_map(cells_read, 2) == IGNORE, ~TRAINING)


def test_regions_that_nothing_names_are_refused_with_both_remedies(tmp_path: Path) -> None:
    cells = [feature(None, 2, 4, 3, 5), feature(None, 8, 11, 4, 9), feature(None, 2, 6, 11, 15)]
    content = json.dumps({"type": "FeatureCollection", "features": [*cells, feature("Training", 0, 24, 0, 32)]})
    root = build(tmp_path / "data", [content.encode()] * 4, ".geojson")
    with pytest.raises(DataError, match=r'data\.class_map=\{"Training": drop\}.*data\.partial=\["Training"\]'):
        read(root, tmp_path / "out")


def test_labels_without_any_background_cannot_teach_it(tmp_path: Path) -> None:
    root = build(tmp_path / "data", [to_png(LABELS)] * 4, ".png")
    with pytest.raises(DataError, match=r"no pixel of the \d labelled images is background.*ring_px"):
        read(root, tmp_path / "out", partial="all")
    report, _, _ = read(root, tmp_path / "ring", partial={"only_cells": True, "ring_px": 2})
    assert report.background_px["labelled"] > 0


def test_generated_cells_may_be_taken_in_part() -> None:
    data = DataConfig(partial={"only_cells": ["labelled"], "ring_px": 3})  # type: ignore[arg-type]
    for found in list_data(data, 0).items:
        if found.split in ("labelled", "val"):
            unknown = not_labelled(cells_of(found.load()))
            assert unknown.any() == (found.split == "labelled")
            if found.image_id.endswith("3"):
                break


def test_the_regions_of_qupath_count_when_they_are_named(tmp_path: Path) -> None:
    cells = [feature("cell", 2, 7, 3, 9), feature("cell", 8, 11, 4, 9)]
    content = json.dumps({"type": "FeatureCollection", "features": [feature("Region*", 0, 12, 0, 16), *cells]})
    root = build(tmp_path / "data", [content.encode()] * 4, ".geojson")
    report, _, records = read(root, tmp_path / "out", partial="Region*")
    assert report.partly["labelled"] > 0 and records[0].instances is not None
    assert np.array_equal(draw_instance_map(records[0].instances, 2) == IGNORE, ~TRAINING)
    plain, _, _ = read(root, tmp_path / "plain")
    assert not any(plain.partly.values()) and plain.left_out == {"regions of QuPath's class Region*": 4}
