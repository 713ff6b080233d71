"""COCO files: masks are those of pycocotools bit by bit, what is wrong is named, what is written reads back."""

from __future__ import annotations

import json
import math
import os
import random
import tracemalloc
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco
from pycocotools.coco import COCO

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import CellsemiError, DataError, ImageError
from cellsemi.configs.schema import Config
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import from_crops, from_label_map
from cellsemi.rounds.cells.rle import decode, encode
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.ingest import read_record
from cellsemi.rounds.datasets.ingest_report import IngestReport
from cellsemi.rounds.datasets.open import open_data
from cellsemi.rounds.formats.base import Item, Loaded, parts_of
from cellsemi.rounds.formats.coco import index as coco_index
from cellsemi.rounds.formats.coco import segmentation as coco_segmentation
from cellsemi.rounds.formats.coco.reader import Coco
from cellsemi.rounds.formats.coco.writer import write
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.schemas import ImageRecord

# pycocotools' decode is older than numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

H, W = 20, 30
SQUARE = [2, 3, 9, 3, 9, 8, 2, 8]
CATEGORIES = [{"id": 7, "name": "neuron"}, {"id": 3, "name": "astro"}, {"id": 1, "name": "never used"}]
Document = dict[str, Any]


def png(value: int, height: int = H, width: int = W) -> bytes:
    return to_png(np.full((height, width), value, np.uint8))


def cell(number: int, image: Any, segmentation: Any, category: Any = 7, **more: Any) -> Document:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}


def rle_list(mask: NDArray[Any]) -> Document:
    runs, last = [], 0
    for pixel in mask.T.reshape(-1):
        if not runs or pixel != last:
            runs += [0] * (not runs and bool(pixel)) + [0]
        runs[-1] += 1
        last = pixel
    return {"size": list(mask.shape), "counts": runs}


def rle_string(mask: NDArray[Any]) -> Document:
    return {"size": list(mask.shape), "counts": encode(mask).decode()}


def blob(seed: int, height: int = H, width: int = W) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((height, width)) > 0.7


def build(root: Path, document: Document | str, files: tuple[str, ...] = ("a.png",)) -> Path:
    """A COCO file and images of distinct grey values."""
    for value, name in enumerate(files):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(value))
    (root / "images").mkdir(parents=True, exist_ok=True)
    text = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)
    (root / "a.json").write_text(text, encoding="utf-8")
    return root


def document(annotations: list[Document], images: list[Document] | None = None) -> Document:
    listed = images if images is not None else [{"id": 1, "file_name": "a.png", "height": H, "width": W}]
    return {"images": listed, "annotations": annotations, "categories": CATEGORIES}


def config(root: Path, **options: Any) -> DataConfig:
    return DataConfig(source="coco", root=str(root), annotations="a.json", **options)


def opened(root: Path, **options: Any) -> Coco:
    return Coco(parts_of(config(root, **options))[0])


def loaded(root: Path, **options: Any) -> dict[str, Loaded]:
    return {item.image_id: item.load() for item in opened(root, **options).items()}


def cells_of(root: Path) -> Instances:
    (found,) = loaded(root).values()
    assert found.record.instances is not None
    return found.record.instances


def check_tight(cells: Instances) -> None:
    """Masks are canonical and not empty; boxes and areas are those of the bitmaps."""
    for rle, box, area in zip(cells.rle, cells.bbox.tolist(), cells.area.tolist(), strict=True):
        mask = coco.decode({"size": [cells.height, cells.width], "counts": rle}).astype(bool)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert encode(mask) == rle and int(mask.sum()) == area > 0
        assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def golden(root: Path) -> Document:
    """Two images of classes 7 and 3: rings, both kinds of RLE, a crowd, an image without cells."""
    hole = [[1.5, 1.5, 12.25, 2, 11, 9.75, 2, 8], [15, 3, 25, 3, 25, 15], [14, 2, 18, 2, 18, 6, 14, 6]]
    annotations = [
        cell(11, 5, [SQUARE], 3, area=1, bbox=[0, 0, 1, 1]),
        cell(12, 9, hole, 7, iscrowd=0, attributes={"occluded": False}),
        cell(13, 5, rle_list(blob(1)), 7, iscrowd=1),
        cell(14, 5, rle_string(blob(2)), 3),
        cell(15, 9, [[-5, -4, 40, 10.5, 12, 33, 3, 18]], 7),
        cell(16, 9, [[20, 1, 29, 1, 29, 19]], 3, ignore=1),
    ]
    images = [
        {"id": 9, "file_name": "astro[a]_細胞.png", "height": H, "width": W, "license": 1},
        {"id": 5, "file_name": "b.png", "height": H, "width": W},
        {"id": 6, "file_name": "empty.png", "height": float(H), "width": W},
    ]
    found = {"info": {"a": [1, {"b": "]}"}]}, **document(annotations, images)}
    build(root, found, ("SHSY5Y/astro[a]_細胞.png", "A172/b.png", "A172/empty.png"))
    return found


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


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([], "its segmentation is empty; a box is no mask"),
        ([[]], "its segmentation is empty"),
        (None, "it has no segmentation; a box is no mask"),
        (7, "expected rings, or counts and size, as segmentation, found 7"),
        ("abc", "expected rings, or counts and size"),
        (SQUARE, r"expected a list of rings as segmentation, found \[2, 3"),
        ([SQUARE, {}], "expected a list of rings"),
        ([[1, 2, 3, 4]], "a ring of 4 numbers, expected x and y of at least three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "a ring of 7 numbers"),
        ([SQUARE, [1, 2, 3, 4, 5, "6"]], "a coordinate that is no number: '6'"),
        ([[1, 2, 3, 4, 5, None]], "a coordinate that is no number: None"),
        ([[1, 2, 3, 4, 5, True]], "a coordinate that is no number: True"),
        ([[1, 2, 3, 4, 5, [6]]], r"a coordinate that is no number: \[6\]"),
        ([[1, 2, 3, 4, 5, math.inf]], r"the point \(5, inf\) lies far outside"),
        ([[1, 2, 3, 4, 1e308, 6]], r"the point \(1e\+308, 6\) lies far outside"),
        ([[1, 2, 3, 4, 2**63, 6]], r"the point \(9.22337e\+18, 6\) lies far outside"),
        ([[1, 2, 3, 4, 10**400, 6]], "a coordinate that lies far outside the image"),
        ([[1, 2, 3, 4, 61, 6]], r"the point \(61, 6\) lies far outside the image of 30x20"),
        ([SQUARE, [1, -20.5, 3, 4, 6, 6]], r"the point \(1, -20.5\) lies far outside"),
        ([[10, 50, 11, 50, 11, 51]], "the point .10, 50. lies far outside"),
        ([[10, 35, 11, 35, 11, 36]], "covers no pixel"),
        ({"size": [H, W]}, "expected rings, or counts and size"),
        ({"counts": [600]}, "expected rings, or counts and size"),
        ({"size": [W, H], "counts": [600]}, r"size of its RLE is \[30, 20\], expected \[height, width\] = \[20, 30\]"),
        ({"size": [10**12, 10**12], "counts": [600]}, "size of its RLE"),
        ({"size": None, "counts": [600]}, "size of its RLE"),
        ({"size": [H, W], "counts": [600]}, "the annotation covers no pixel"),
        ({"size": [H, W], "counts": []}, "its 0 run lengths do not fill the image of 30x20 pixels"),
        ({"size": [H, W], "counts": [100, 499]}, "its 2 run lengths do not fill"),
        ({"size": [H, W], "counts": [100, -1, 501]}, "its 3 run lengths do not fill"),
        ({"size": [H, W], "counts": [100, 500] + [0] * 600}, "its 602 run lengths do not fill"),
        ({"size": [H, W], "counts": [100, 500.0]}, "expected whole numbers as counts"),
        ({"size": [H, W], "counts": [599, True]}, "expected whole numbers as counts"),
        ({"size": [H, W], "counts": [100, "x"]}, "expected whole numbers as counts"),
        ({"size": [H, W], "counts": {"0": 600}}, "expected whole numbers as counts"),
        ({"size": [H, W], "counts": [2**63, 5]}, "a run length of its RLE is beyond all images"),
        ({"size": [H, W], "counts": ""}, "its RLE string is damaged: ''"),
        ({"size": [H, W], "counts": "P"}, "its RLE string is damaged"),
        ({"size": [H, W], "counts": "oooooooo1"}, "its RLE string is damaged"),
        ({"size": [H, W], "counts": "a b"}, "its RLE string is damaged"),
        ({"size": [H, W], "counts": "é1"}, "its RLE string is damaged"),
        ({"size": [H, W], "counts": "11"}, "its 2 run lengths do not fill"),
        ({"size": [H, W], "counts": "ooooo?"}, "run lengths do not fill"),
    ],
)
@pytest.mark.parametrize("neighbours", [False, True])
def test_a_malformed_mask_is_an_error_of_its_image(
    tmp_path: Path, segmentation: Any, words: str, neighbours: bool
) -> None:
    good = [cell(1, 1, [SQUARE]), cell(2, 1, rle_list(blob(1))), cell(3, 1, rle_string(blob(2)))] * neighbours
    wrong = cell(123, 1, segmentation, bbox=[0, 0, 5, 5])
    if segmentation is None:
        del wrong["segmentation"]
    build(tmp_path, json.dumps(document([*good, wrong, *good])).replace("Infinity", "1e999"))
    with pytest.raises(ImageError, match=words) as caught:
        loaded(tmp_path)
    assert caught.value.path == f"a.json, annotation {len(good) + 1} (id 123)" and caught.value.remedy
    assert len(str(caught.value)) < 300


def test_an_outline_that_would_take_long_to_draw_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_segmentation, "MAX_OUTLINE_PX", 100)
    long = [0, 0, 29, 0] * 2
    build(tmp_path, document([cell(1, 1, [SQUARE, SQUARE]), cell(2, 1, [SQUARE, long])]))
    with pytest.raises(ImageError, match=r"annotation 2 .id 2.: an outline 140 pixels long, the limit is 100"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category_id": None}, "category_id is None, expected a number"),
        ({"category_id": [7]}, r"category_id is \[7\], expected a number"),
        ({"category_id": True}, "category_id is True"),
        ({"iscrowd": "no"}, "iscrowd or ignore is 'no', expected 0 or 1"),
        ({"iscrowd": [1]}, r"iscrowd or ignore is \[1\]"),
        ({"ignore": 2}, "iscrowd or ignore is 2"),
    ],
)
def test_a_malformed_annotation_is_an_error_of_its_image(tmp_path: Path, change: Document, words: str) -> None:
    build(tmp_path, document([cell(1, 1, [SQUARE]), cell(2, 1, [SQUARE]) | change]))
    with pytest.raises(ImageError, match=rf"a.json, annotation 2 .id 2.: {words}"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("annotations", [7], r"annotation 1 \(no id\): expected an object, found 7"),
        ("annotations", [cell(4, 1, []), cell(5, [1], [])], r"annotation 2 \(id 5\): image_id is \[1\]"),
        ("annotations", [{"id": 4}], r"annotation 1 \(id 4\): image_id is None"),
        ("annotations", [cell(4, True, [])], "annotation 1 .id 4.: image_id is True"),
        ("annotations", [cell(4, 1, []), cell(5, 2, [])], "annotation 2 .id 5.: image_id 2 is not in 'images'"),
        ("annotations", [cell(4, "1", [])], "annotation 1 .id 4.: image_id '1' is not in 'images'"),
        ("annotations", [cell(4, 1, []), cell("x", 1, [], 8)], "annotation 2 .id 'x'.: category_id 8 is not in 'categ"),
        ("annotations", {"1": cell(4, 1, [])}, "'annotations' is no list"),
        ("annotations", None, "'annotations' is no list"),
        ("images", [[]], r"image 1 \(no id\): expected an object, found \[\]"),
        ("images", [{"file_name": "a.png"}], "image 1 .no id.: id is None"),
        ("images", [{"id": 1}], "image 1 .id 1.: file_name is None, expected a name"),
        ("images", [{"id": 1, "file_name": " "}], "image 1 .id 1.: file_name is ' '"),
        ("images", [{"id": 1, "file_name": 7}], "image 1 .id 1.: file_name is 7"),
        ("images", [{"id": 1, "file_name": "a" * 5000}], "image 1 .id 1.: file_name is 'aaa"),
        ("images", [{"id": 1, "file_name": "\ud800.png"}], "image 1 .id 1.: file_name is .*ud800"),
        ("images", [{"id": 1, "file_name": n} for n in "ab"], "image 2 .id 1.: image 1 has the same id"),
        ("categories", ["x"], "category 1 .no id.: expected an object"),
        ("categories", [{"id": 1.5, "name": "x"}], "category 1 .id 1.5.: id is 1.5"),
        ("categories", [{"id": 1}], "category 1 .id 1.: name is None"),
        ("categories", [{"id": 1, "name": n} for n in "ab"], "category 2 .id 1.: another category has the same id"),
    ],
)
def test_a_wrong_listing_names_the_element(tmp_path: Path, part: str, value: Any, words: str) -> None:
    build(tmp_path, json.dumps(document([]) | {part: value}))
    with pytest.raises(DataError, match=words) as caught:
        opened(tmp_path)
    assert str(tmp_path / "a.json") in str(caught.value) and not isinstance(caught.value, ImageError)


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
def test_a_missing_part_of_the_file_is_named(tmp_path: Path, part: str) -> None:
    build(tmp_path, {key: value for key, value in document([]).items() if key != part})
    with pytest.raises(DataError, match=f"no '{part}' at the top level"):
        opened(tmp_path)


def test_missing_places_are_named_with_their_setting(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"no such file; data\.annotations names it"):
        opened(tmp_path)
    with pytest.raises(DataError, match=r"data\.images"):
        opened(tmp_path, images="nowhere")


@pytest.mark.parametrize(
    "change",
    [
        *({"width": width} for width in (31, -30, None, math.inf, True, [30])),
        *({"height": height} for height in (0, "20", 10**30, 20.5, 2**31 // W + 1)),
    ],
)
def test_a_listed_size_that_is_not_that_of_the_image_makes_it_unusable(tmp_path: Path, change: Document) -> None:
    images = [{"id": 1, "file_name": "a.png", "height": H, "width": W} | change]
    build(tmp_path, json.dumps(document([], images)).replace("Infinity", "1e999"))
    with pytest.raises(ImageError, match=r"a.json, image 1 .id 1.: (the listed size|no usable width)"):
        loaded(tmp_path)


def test_images_without_a_file_are_listed_and_cannot_be_loaded(tmp_path: Path) -> None:
    names = ["a.png", "../../etc/passwd", "x/a.tif", "..", "q\0.png", "q\0.png", "two.png", "/", "...png"]
    images = [{"id": i, "file_name": name, "height": H, "width": W} for i, name in enumerate(names)]
    build(tmp_path, document([cell(1, 1, [SQUARE])], images), ("a.png", "1/two.png", "2/two.png"))
    items = open_data(Config(data=config(tmp_path, classes=("neuron",)))).items
    assert [item.image_id for item in items] == [
        "a", "passwd", "a (image 3)", "_", "q_", "two", "image", "_ (image 9)",
    ]  # fmt: skip
    assert items[0].load().record.image_id == "a"
    for item in items[1:]:
        with pytest.raises(ImageError, match=r"there is no such file|several files fit"):
            item.load()


def test_a_file_that_changes_under_the_reader_is_noticed(tmp_path: Path) -> None:
    build(tmp_path, document([cell(1, 1, [SQUARE])]))
    path = tmp_path / "a.json"
    (item,) = opened(tmp_path).items()
    item.load()
    status = path.stat()
    path.write_text(path.read_text().replace("[[2, 3", "[[[[[["))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match="changed while it was read; run the same command again"):
        item.load()
    path.write_text("{}")
    with pytest.raises(DataError, match="changed while it was read"):
        item.load()
    path.unlink()
    with pytest.raises(DataError, match="changed while it was read"):
        item.load()


def test_nesting_that_only_a_shallow_stack_can_read_is_an_error_of_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, document([cell(1, 1, [SQUARE])]))
    (item,) = opened(tmp_path).items()

    def too_deep(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr(coco_index, "read_element", too_deep)
    with pytest.raises(ImageError, match=r"a.json, annotation 1: it is nested too deeply"):
        item.load()


POINTS = st.floats(-W, 2 * W).map(lambda x: round(x, 2)) | st.integers(0, W)
RINGS = st.lists(st.tuples(POINTS, st.floats(-H, 2 * H) | st.integers(0, H)), min_size=3, max_size=8)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(RINGS, min_size=1, max_size=3), min_size=1, max_size=4))
def test_any_polygon_is_drawn_as_pycocotools_draws_it(polygons: list[list[list[tuple[float, float]]]]) -> None:
    written = [[[v for point in ring for v in point] for ring in rings] for rings in polygons]
    found = coco_segmentation.to_rles(written, H, W, str)
    for rings, rle in zip(written, found, strict=True):
        expected = coco.decode(coco.merge(coco.frPyObjects(rings, H, W))).astype(bool)
        assert rle == encode(expected)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.integers(1, 7), st.booleans())
def test_any_run_lengths_are_coded_as_their_bitmap_is(runs: list[int], height: int, as_text: bool) -> None:
    width = -(-max(sum(runs), 1) // height)
    runs = [*runs, height * width - sum(runs)][: height * width + 1]
    flat = np.concatenate([np.full(run, i % 2, bool) for i, run in enumerate(runs)])
    coded: Any = {"size": [height, width], "counts": runs}
    if len(flat) != height * width:
        with pytest.raises(ImageError):
            coco_segmentation.to_rles([coded], height, width, str)
        return
    if as_text:
        coded["counts"] = coco.frPyObjects(coded, height, width)["counts"].decode()
    assert coco_segmentation.to_rles([coded], height, width, str) == [encode(flat.reshape(width, height).T)]


def record(image_id: str, cells: Instances | None, source: str = "", height: int = H, width: int = W) -> ImageRecord:
    return ImageRecord(image_id=image_id, height=height, width=width, split="val", source=source, instances=cells)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, 2**32), max_size=4), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_what_is_written_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, seeds: list[list[int]], draw: random.Random
) -> None:
    root = tmp_path_factory.mktemp("back")
    classes = ("b", "ä", "a")
    records = []
    for index, cells in enumerate(seeds):
        crops = [(blob(seed, 5, 7), seed % 20, seed % 15) for seed in cells]
        columns = {
            "class_id": [draw.randrange(3) for _ in crops],
            "state": [draw.choice(["human", "ignored", "accepted"]) for _ in crops],
            "score": [draw.random() for _ in crops],
        }
        found = from_crops(H, W, crops, **columns) if crops else Instances.empty(H, W)
        records.append(record(f"i{index}", found, f"images/i{index}.png"))
    build(root, "", tuple(f"i{index}.png" for index in range(len(seeds))))
    exported = write(iter(records), root / "a.json", classes)
    assert (exported.images, exported.cells) == (len(seeds), sum(map(len, seeds)))
    assert exported.files == ["a.json"] and not exported.losses
    back = loaded(root)
    for before in records:
        after = back[before.image_id]
        assert before.instances is not None and after.record.instances is not None
        cells = after.record.instances
        assert cells.rle == before.instances.rle and np.array_equal(cells.bbox, before.instances.bbox)
        assert np.array_equal(cells.area, before.instances.area)
        names = [after.classes[i] for i in cells.class_id]
        assert names == [classes[i] for i in before.instances.class_id]
        assert [s == "ignored" for s in cells.state] == [s == "ignored" for s in before.instances.state]


def test_a_written_file_is_what_pycocotools_expects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label_map = np.zeros((H, W), np.int32)
    label_map[2:5, 3:9], label_map[8:12, 10:11] = 1, 2
    cells = from_label_map(label_map, class_id=[1, 0], state=["accepted", "human"], score=[0.1234567, 0.5])
    records = [
        record("x", cells, "images/p/é.png"),
        record("y", cells.with_(state="ignored"), "images/q/é.png"),
        record("z", None),
        record("y", Instances.empty(H, W), "images/q/é.png"),
    ]
    exported = write(records, tmp_path / "out" / "a.json", ("a", "b"))
    first = (tmp_path / "out" / "a.json").read_bytes()
    write(records, tmp_path / "out" / "a.json", ("a", "b"))
    assert (tmp_path / "out" / "a.json").read_bytes() == first and len(list((tmp_path / "out").iterdir())) == 1
    assert exported.losses == {"images that were never annotated, written as images without cells": 1}
    reference = COCO(str(tmp_path / "out" / "a.json"))
    assert [image["file_name"] for image in reference.imgs.values()] == ["é.png", "y.png", "z.png", "y-2.png"]
    assert [category["name"] for category in reference.loadCats([1, 2])] == ["a", "b"]
    annotations = list(reference.anns.values())
    assert [a["bbox"] for a in annotations] == [[3, 2, 6, 3], [10, 8, 1, 4]] * 2
    assert [(a["id"], a["image_id"], a["category_id"], a["area"], a["iscrowd"]) for a in annotations] == [
        (1, 1, 2, 18, 0), (2, 1, 1, 4, 0), (3, 2, 2, 18, 1), (4, 2, 1, 4, 1),
    ]  # fmt: skip
    assert [a.get("score") for a in annotations] == [0.123457, None, 0.123457, 0.5]
    for value, annotation in zip((1, 2, 1, 2), annotations, strict=True):
        assert np.array_equal(reference.annToMask(annotation), label_map == value)


def test_no_images_make_a_valid_file(tmp_path: Path) -> None:
    assert write([], tmp_path / "a.json", ("a",)).images == 0
    assert json.loads((tmp_path / "a.json").read_text())["images"] == []
    (tmp_path / "images").mkdir()
    assert loaded(tmp_path) == {} and opened(tmp_path).classes == ()


WRONG: list[Any] = [
    None, True, -1, 0, 1.5, "", "x", [], {}, [[]], [1], 2**31, 2**63, 10**400, 1e308, "\ud800", "../../etc/passwd",
    math.nan, math.inf, -math.inf, json.loads("[" * 200 + "]" * 200), ["x"] * 50, {"size": [0, 0], "counts": ""},
]  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inner in pairs:
        found += [(value, key), *places(inner)]
    return found


def damaged(text: str, draw: random.Random) -> bytes:
    """A COCO file with one to three things wrong in its values or in its bytes."""
    if draw.random() < 0.6:
        content = json.loads(text)
        for _ in range(draw.randint(1, 3)):
            container, key = draw.choice(places(content))
            if isinstance(container, dict) and draw.random() < 0.2:
                del container[key]
            elif isinstance(container, list) and draw.random() < 0.2:
                container.append(deepcopy(container[key]))
            else:
                container[key] = deepcopy(draw.choice(WRONG))
        return json.dumps(content).encode()
    raw = bytearray(text.encode())
    if draw.random() < 0.3:
        return bytes(raw[: draw.randrange(len(raw))])
    for _ in range(draw.randint(1, 3)):
        raw[draw.randrange(len(raw))] = draw.randrange(256)
    return bytes(raw)


def ends_well(root: Path, settle: Callable[[Item, CellsemiError | Loaded], None]) -> None:
    """Open and load; a DataError may come from opening, an ImageError from loading, and nothing else."""
    try:
        items = list(opened(root).items())
    except DataError as error:
        assert not isinstance(error, ImageError) and len(str(error)) < 1000
        return
    for item in items:
        try:
            settle(item, item.load())
        except ImageError as error:
            settle(item, error)


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_file_ends_in_an_error_with_a_place_or_in_valid_cells(tmp_path: Path, seed: int) -> None:
    golden(tmp_path)
    path = tmp_path / "a.json"
    text = path.read_text(encoding="utf-8")
    draw = random.Random(seed)
    ends: list[str] = []

    def settle(item: Item, end: CellsemiError | Loaded) -> None:
        ends.append(type(end).__name__)
        if isinstance(end, Loaded):
            assert end.record.instances is not None
            check_tight(end.record.instances)
        else:
            assert len(str(end)) < 6000

    for _ in range(40):
        path.write_bytes(damaged(text, draw))
        tracemalloc.start()
        ends_well(tmp_path, settle)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8_000_000
    assert {"ImageError", "Loaded"} <= set(ends)
