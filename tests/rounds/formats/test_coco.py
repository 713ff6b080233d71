"""COCO files that are right: masks are those of pycocotools bit by bit, entries are joined, images found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.coco_files import (
    SQUARE,
    H,
    W,
    blob,
    build,
    cell,
    cells_of,
    check_tight,
    config,
    document,
    golden,
    loaded,
    opened,
    png,
    rle_list,
    rle_string,
)
from pycocotools import mask as coco
from pycocotools.coco import COCO

from cellsemi.configs.errors import DataError, ImageError
from cellsemi.configs.schema import Config
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.ingest_report import IngestReport
from cellsemi.rounds.datasets.open import open_data
from cellsemi.rounds.datasets.read_shards import read_record

# pycocotools' decode is older than numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_masks_classes_and_crowds_are_those_of_pycocotools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golden(tmp_path)
    reader = opened(tmp_path)
    assert reader.classes == ("astro", "neuron") and reader.notes == ()
    found = {item.image_id: (item, item.load()) for item in reader.items()}
    assert list(found) == ["astro[a]_細胞", "b", "empty"]
    reference = COCO(str(tmp_path / "a.json"))
    for image_id, name in ((9, "astro[a]_細胞"), (5, "b"), (6, "empty")):
        cells = found[name][1].record.instances
        annotations = reference.imgToAnns[image_id]
        assert cells is not None and len(cells) == len(annotations)
        for i, annotation in enumerate(annotations):
            assert np.array_equal(decode(cells.rle[i], H, W), reference.annToMask(annotation).astype(bool))
            assert reader.classes[cells.class_id[i]] == reference.cats[annotation["category_id"]]["name"]
        check_tight(cells)
    b, astro = found["b"][1].record, found["astro[a]_細胞"][1].record
    assert b.instances is not None and b.instances.state == ("human", "ignored", "human")
    assert astro.instances is not None and astro.instances.state == ("human", "human", "ignored")
    assert astro.image == png(0) and astro.source == "images/SHSY5Y/astro[a]_細胞.png"
    assert [item.place for item, _ in found.values()] == ["a.json, image 1", "a.json, image 2", "a.json, image 3"]


@pytest.mark.parametrize("count", [0, 255, 256, 700])
def test_an_image_may_hold_hundreds_of_cells(tmp_path: Path, count: int) -> None:
    drawn = [[x, y, x + 3, y, x + 3, y + 2, x, y + 2] for x, y in ((i % 25, i % 17) for i in range(count))]
    build(tmp_path, document([cell(i, 1, [ring]) for i, ring in enumerate(drawn)]))
    cells = cells_of(tmp_path)
    assert len(cells) == count
    assert cells.bbox.tolist() == [[x, y, x + 3, y + 2] for x, y, *_ in drawn]
    assert cells.area.tolist() == [6] * count
    check_tight(cells)


def test_class_and_group_come_from_the_path_of_the_image(tmp_path: Path) -> None:
    golden(tmp_path)
    patterns = {"class_pattern": "images/([^/]+)/", "group_pattern": r"([a-z]+)[^/]*\.png"}
    items = list(opened(tmp_path, **patterns).items())
    assert [item.cell_type for item in items] == ["SHSY5Y", "A172", "A172"]
    assert [item.group for item in items] == ["astro", "b", "empty"]
    assert {item.split for item in items} == {None}


def test_a_run_reads_its_own_classes_out_of_it(tmp_path: Path) -> None:
    golden(tmp_path)
    found = Config(data=config(tmp_path, classes=("neuron", "glia"), class_map={"astro": "glia"}))
    report = IngestReport()
    records = [read_record(item, ClassNames(found.data), report) for item in open_data(found).items]
    assert [r.instances.class_id.tolist() for r in records if r.instances is not None] == [[0, 0, 1], [1, 0, 1], []]
    with pytest.raises(DataError, match=r"class 'astro', expected one of neuron \(data.classes\)"):
        open_data(Config(data=config(tmp_path, classes=("neuron",))))


@pytest.mark.parametrize(
    "file_name",
    ["images/ab-1.png", "..\\..\\media\\upload\\1/ab-1.png", "/data/upload/1/ab-1.png", "C:\\x\\ab-1.png", "ab-1.png"],
)
def test_paths_of_the_machine_that_exported_do_not_matter(tmp_path: Path, file_name: str) -> None:
    images = [{"id": 0, "file_name": file_name, "height": H, "width": W}]
    build(tmp_path, document([cell(1, 0, [SQUARE])], images), ("ab-1.png",))
    assert list(loaded(tmp_path)) == ["ab-1"]


def test_keys_in_any_order_ids_of_text_and_equal_names_are_read(tmp_path: Path) -> None:
    annotations = [cell(1, "x", [SQUARE], "t"), cell(2, "x", [SQUARE], 4), cell(3, "x", rle_list(blob(3)), "u")]
    images = [{"id": "x", "file_name": "a.png", "height": H, "width": W}]
    names = [{"id": "u", "name": "a"}, {"id": "t", "name": "b"}, {"id": 4, "name": "a"}]
    build(tmp_path, {"annotations": annotations, "categories": names, "images": images})
    (found,) = loaded(tmp_path).values()
    assert found.classes == ("a", "b") and found.record.instances is not None
    assert found.record.instances.class_id.tolist() == [1, 0, 0]


def test_entries_of_one_file_are_joined_and_what_repeats_is_counted(tmp_path: Path) -> None:
    size = {"height": H, "width": W}
    images = [{"id": i, "file_name": name, **size} for i, name in ((1, "a.png"), (2, "b.png"), (3, "x/a.png"))]
    annotations = [
        cell(1, 1, [SQUARE]),
        cell(2, 1, [SQUARE]),  # twice in one entry: two cells
        cell(3, 3, rle_string(decode(coco.frPyObjects([SQUARE], H, W)[0]["counts"], H, W))),  # the same mask
        cell(4, 3, [SQUARE], 3),  # another class
        cell(5, 3, rle_list(blob(4))),
        cell(6, 2, [SQUARE]),
        cell(7, 3, [SQUARE]),
        cell(8, 1, rle_list(blob(4))),
    ]
    build(tmp_path, document(annotations, images), ("a.png", "b.png"))
    reader = opened(tmp_path)
    assert reader.notes == ("a.json: 1 of 3 image entries name the file of another one and were joined with it",)
    a, b = (item.load() for item in reader.items())
    assert a.record.instances is not None and b.record.instances is not None
    assert (len(a.record.instances), a.repeated, len(b.record.instances), b.repeated) == (4, 3, 1, 0)
    assert a.record.instances.class_id.tolist() == [1, 1, 0, 1]


def test_entries_of_one_file_with_two_sizes_make_it_unusable(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": "a.png", "height": H + i, "width": W} for i in (0, 1)]
    build(tmp_path, document([], images))
    with pytest.raises(ImageError, match=r"a.json, image 2 .id 1.: the listed size is 30x21, the image 30x20"):
        loaded(tmp_path)
