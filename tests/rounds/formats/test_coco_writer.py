"""COCO files that are written: they read back the same, and are what pycocotools expects."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from helpers.coco_files import (
    H,
    W,
    blob,
    build,
    loaded,
    opened,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import from_crops, from_label_map
from cellsemi.rounds.formats.coco.writer import write_coco
from cellsemi.rounds.store.schemas import ImageRecord

# pycocotools' decode is older than numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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
    exported = write_coco(iter(records), root / "a.json", classes)
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
    exported = write_coco(records, tmp_path / "out" / "a.json", ("a", "b"))
    first = (tmp_path / "out" / "a.json").read_bytes()
    write_coco(records, tmp_path / "out" / "a.json", ("a", "b"))
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
    assert write_coco([], tmp_path / "a.json", ("a",)).images == 0
    assert json.loads((tmp_path / "a.json").read_text())["images"] == []
    (tmp_path / "images").mkdir()
    assert loaded(tmp_path) == {} and opened(tmp_path).classes == ()
