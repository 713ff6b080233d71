"""COCO files that are wrong: each fault is named with its place, whatever it is."""

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

import pytest
from helpers.coco_files import (
    SQUARE,
    Document,
    H,
    W,
    blob,
    build,
    cell,
    check_tight,
    config,
    document,
    golden,
    loaded,
    opened,
    rle_list,
    rle_string,
)

from cellsemi.configs.errors import CellsemiError, DataError, ImageError
from cellsemi.configs.schema import Config
from cellsemi.rounds.datasets.open import open_data
from cellsemi.rounds.formats.base import Item, Loaded
from cellsemi.rounds.formats.coco import index as coco_index
from cellsemi.rounds.formats.coco import segmentation as coco_segmentation

# pycocotools' decode is older than numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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
        ([[10, 35, 13, 35, 13, 38]], "covers no pixel"),
        ({"size": [H, W]}, "expected rings, or counts and size"),
        ({"counts": [600]}, "expected rings, or counts and size"),
        ({"size": [W, H], "counts": [600]}, r"size of its RLE is \[30, 20\], expected \[height, width\] = \[20, 30\]"),
        ({"size": [10**12, 10**12], "counts": [600]}, "size of its RLE"),
        ({"size": None, "counts": [600]}, "size of its RLE"),
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
        ("annotations", [cell(4, 3, []), cell(5, 2, [])], "annotation 1 .id 4.: image_id 3 is not in 'images'"),
        ("annotations", [cell(4, "01", [])], "annotation 1 .id 4.: image_id '01' is not in 'images'"),
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
