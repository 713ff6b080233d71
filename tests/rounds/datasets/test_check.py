"""Shards, COCO files and submissions are checked from their bytes; every kind of damage is named and placed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.run_folders import finish_folder
from helpers.terminal import invoke
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cellsemi.configs.errors import DataError, UsageError
from cellsemi.configs.schema import Config
from cellsemi.rounds.cells.masks import from_label_map
from cellsemi.rounds.cells.rle import decode_counts, encode
from cellsemi.rounds.datasets.check_shards import Problem, check_shards, measured
from cellsemi.rounds.datasets.import_shards import import_data
from cellsemi.rounds.formats.shards import IMPORT_FILE, read_import
from cellsemi.rounds.store import schemas, shards
from cellsemi.rounds.store.image_codec import pixel_sha256, to_png
from cellsemi.rounds.store.run import open_run
from cellsemi.rounds.store.schemas import ImageRecord

LABELS = np.array([[0, 1, 1, 0], [0, 0, 3, 3], [2, 0, 3, 3]], np.int32)


def record(i: int, split: str = "val", **changes: Any) -> ImageRecord:
    pixels = np.full((3, 4), i, np.uint8)
    made = ImageRecord(
        f"im{i}", 3, 4, split, image=to_png(pixels), source=f"im{i}.png", sha256=pixel_sha256(pixels), dtype="uint8",
        instances=from_label_map(LABELS, state="human"),
    )  # fmt: skip
    return made.with_(**changes)


def spoilt(folder: Path, records: list[ImageRecord], **cell: Any) -> Path:
    """A shard whose first cell of the last image says something else, as no writer of ours would."""
    rows = [schemas.to_row(each) for each in records]
    rows[-1]["instances"][0] |= cell
    folder.mkdir(parents=True, exist_ok=True)
    table = schemas.to_table(records, "h").from_pylist(rows, schema=schemas.versioned(schemas.IMAGES, "h"))
    pq.write_table(table, folder / shards.part_name(0))
    return folder


def problems(folder: Path) -> list[str]:
    return [str(problem) for problem in check_shards(folder, lambda _: None).problems]


def imported(root: Path) -> Path:
    """An import of a small generated data set."""
    sizes = {"labelled": 2, "unlabelled": 2, "val": 1, "test": 1, "height_px": 64, "width_px": 64}
    config = Config(data={"generated": sizes, "shard_images": 1})
    import_data(config, root / "shards", lambda *_: None)
    return root / "shards"


def test_shards_as_written_have_nothing_wrong(tmp_path: Path) -> None:
    shards.write_folder(tmp_path, [record(i) for i in range(5)], 2, "h")
    checked = check_shards(tmp_path, lambda _: None)
    assert checked.problems == [] and checked.counts == {"shards": 3, "images": 5, "cells": 15}


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ({"area": 3}, "the area is 2, stated is 3"),
        ({"bbox": [0, 0, 3, 1]}, r"the box is \(1, 0, 3, 1\), stated is \(0, 0, 3, 1\)"),
        ({"rle": b""}, "the RLE covers 0 pixels, the image has 12"),
        ({"rle": encode(np.ones((3, 5), bool))}, "the RLE covers 15 pixels"),
        ({"rle": b"P"}, "cut off in the middle of a run"),
        ({"rle": encode(np.zeros((3, 4), bool))}, "holds no pixel"),
        ({"rle": b"\xff\x00" * 40}, "RLE"),
        ({"class_id": -1}, "class_id -1"),
        ({"state": "odd"}, "state 'odd', expected one of human"),
        ({"score": 1.5}, "score 1.5, expected 0 to 1"),
        ({"quality": float("nan")}, "quality nan"),
        ({"weight": -1.0}, "weight -1.0"),
        ({"weight": float("inf")}, "weight inf"),
        ({"area": None}, "a value is missing"),
    ],
)
def test_a_cell_that_is_not_as_stated_is_placed(tmp_path: Path, cell: dict[str, Any], words: str) -> None:
    spoilt(tmp_path, [record(0), record(1)], **cell)
    (problem,) = check_shards(tmp_path, lambda _: None).problems
    assert (problem.place, problem.row, problem.cell) == ("part-00000.parquet", 2, 0)
    assert re.search(words, problem.problem), problem.problem


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": b"no image"}, "the image not a PNG"),
        ({"image": to_png(np.zeros((4, 4), np.uint8))}, "the image is 4x4, stated is 4x3"),
        ({"image": to_png(np.full((3, 4), 1, np.uint16))}, "the image is uint16, stated is uint8"),
        ({"image": to_png(np.full((3, 4), 9, np.uint8))}, "the sha256 of the pixels"),
        ({"dtype": ""}, "the image is uint8, stated is nothing"),
        ({"image_id": "im0"}, "the id 'im0' stands in val and in val"),
        ({"height": 0, "instances": None}, "the size is 4x0"),
    ],
)
def test_an_image_that_is_not_as_stated_is_found(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    shards.write_folder(tmp_path, [record(0), record(1, **changes)], 9, "h")
    assert any(words in problem for problem in problems(tmp_path)), problems(tmp_path)


def test_predictions_have_no_image_and_that_is_right(tmp_path: Path) -> None:
    shards.write_folder(tmp_path, [record(0, image=None), record(1, image=None, instances=None)], 9, "h")
    assert problems(tmp_path) == []


def test_an_import_is_checked_against_what_it_noted(tmp_path: Path) -> None:
    folder = imported(tmp_path)
    assert problems(folder) == []
    first, second = folder / "labelled" / "part-00000.parquet", folder / "labelled" / "part-00001.parquet"
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    second.rename(second.with_name("part-00007.parquet"))
    told = problems(folder)
    assert any("labelled/part-00000.parquet: its sha256" in problem for problem in told)
    assert any("labelled/part-00001.parquet: listed, but" in problem for problem in told)
    assert any("labelled/part-00007.parquet: not listed" in problem for problem in told)


def test_classes_images_and_splits_of_an_import_are_checked(tmp_path: Path) -> None:
    folder = imported(tmp_path)
    for path in shards.shard_paths(folder / "val"):
        path.unlink()
    wrong = record(1, "test", image=None, group="w")
    spoilt(folder / "val", [record(0, group="w"), wrong], class_id=7)
    shards.write_folder(folder / "test", [record(3, "test", group="w")], 9, "h")
    told = "\n".join(problems(folder))
    for words in ("its split is 'test', the folder is 'val'", "there is no image", "class_id 7, expected 0 to 0",
                  "the splits leak into each other", "group 'w'"):  # fmt: skip
        assert words in told, told


@pytest.mark.parametrize(
    ("change", "words"),
    [({"classes": None}, "classes: "), ({"more": 1}, "more: Extra inputs"), ({"shards": 3}, "shards: ")],
)
def test_an_import_whose_file_was_altered_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = imported(tmp_path) / IMPORT_FILE
    assert read_import(path.parent).classes == ("cell",)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=f"import.json: not what an import writes .{words}.*import anew"):
        read_import(path.parent)


def test_the_same_pixels_in_two_splits_are_a_leak_and_in_one_a_count(tmp_path: Path) -> None:
    shards.write_folder(tmp_path, [record(0), record(0, image_id="twin")], 9, "h")
    checked = check_shards(tmp_path, lambda _: None)
    assert checked.problems == [] and checked.counts["images that repeat the pixels of another"] == 1


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 500])
def test_a_file_that_is_no_parquet_is_a_problem(tmp_path: Path, content: bytes) -> None:
    shards.write_folder(tmp_path, [record(0)], 9, "h")
    (tmp_path / shards.part_name(1)).write_bytes(content)
    (problem,) = problems(tmp_path)
    assert problem.startswith("part-00001.parquet: cannot be read")


def test_another_schema_or_version_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards.write_rows(tmp_path / shards.part_name(0), [], schemas.QUARANTINE, "h")
    assert "its columns are not those of image shards" in problems(tmp_path)[0]
    monkeypatch.setattr(schemas, "SCHEMA_VERSION", 1)
    shards.write_folder(tmp_path, [record(0)], 9, "h")
    monkeypatch.undo()
    assert "schema version 1" in problems(tmp_path)[0]


def test_mutated_shards_end_in_problems_and_nothing_else(tmp_path: Path) -> None:
    shards.write_folder(tmp_path, [record(i) for i in range(3)], 9, "h")
    path = tmp_path / shards.part_name(0)
    good, random = path.read_bytes(), np.random.default_rng(0)
    found = 0
    for _ in range(60):
        content = bytearray(good)
        for position in random.integers(0, len(good), 3):
            content[position] = random.integers(256)
        path.write_bytes(content[: random.integers(1, len(good))] if random.random() < 0.2 else content)
        found += bool(problems(tmp_path))
    assert found > 30


@given(arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_area_and_box_of_runs_are_those_of_the_mask(mask: np.ndarray[Any, Any]) -> None:
    area, box = measured(decode_counts(encode(mask)), mask.shape[0])
    rows, columns = np.nonzero(mask)
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else (0, 0, 0, 0)
    assert (area, box) == (mask.sum(), expected)


def test_a_run_is_checked_by_its_stage_manifests(tmp_path: Path) -> None:
    config = Config(run={"root": str(tmp_path), "name": "r"})
    paths = open_run(config)
    commits = shards.write_folder(paths.split("val"), [record(0)], 9, "h")
    finish_folder(paths.split("val"), rows=1, cells=3, shards=commits)
    assert problems(paths.root) == problems(paths.data) == []
    shards.write_folder(paths.split("val"), [record(1)], 9, "h")
    assert "sha256" in problems(paths.root)[0] and "sha256" in problems(paths.data)[0]


# --- the command ----------------------------------------------------------------------------------------


def test_the_command_counts_and_ends_with_one_when_something_is_wrong(here: Path) -> None:
    shards.write_folder(here / "s", [record(0)], 9, "h")
    done = invoke("data", "check", "s")
    assert done.exit_code == 0 and "1 shards, 1 images, 3 cells" in done.output and "Nothing is wrong" in done.output
    spoilt(here / "s", [record(0)], area=9, score=2.0)
    done = invoke("data", "check", "s")
    assert done.exit_code == 1 and "row 1, cell 0: the area is 2, stated is 9" in done.output
    assert "2 problems" in done.output
    answer = json.loads(invoke("data", "check", "s", "--json").output)
    assert [problem["cell"] for problem in answer["problems"]] == [0, 0]


def test_what_cannot_be_checked_is_wrong_usage(here: Path) -> None:
    (here / "empty").mkdir()
    (here / "a.txt").touch()
    for path, words in (("empty", "nothing to check"), ("a.txt", "expected a folder of image shards")):
        done = invoke("data", "check", path)
        assert isinstance(done.exception, UsageError) and words in str(done.exception)
    assert invoke("data", "check", "nowhere").exit_code == 2


def coco(**changes: Any) -> dict[str, Any]:
    square = {"id": 5, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 3, 0, 3, 3]], "iscrowd": 0}
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 8}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [square, {**square, "id": 6}],
    }
    return {**content, **changes}


def test_every_annotation_of_a_coco_file_is_drawn(here: Path) -> None:
    path = here / "a.json"
    path.write_text(json.dumps(coco()))
    done = invoke("data", "check", "a.json")
    assert done.exit_code == 0 and "1 images, 2 cells" in done.output
    wrong = coco()
    wrong["annotations"][1]["segmentation"] = {"size": [8, 9], "counts": [1, 2]}
    wrong["images"].append({"id": 2, "file_name": "b.png"})
    path.write_text(json.dumps(wrong))
    done = invoke("data", "check", "a.json", "--json")
    told = [problem["place"] + ": " + problem["problem"] for problem in json.loads(done.output)["problems"]]
    assert done.exit_code == 1 and len(told) == 2
    assert "annotation 2 (id 6)" in told[0] and "no usable width and height" in told[1]
    path.write_text(json.dumps(coco(annotations=[{"id": 1, "image_id": 99}])))
    assert invoke("data", "check", "a.json").exit_code == 1
    path.write_text('{"images": [')
    assert invoke("data", "check", "a.json").exit_code == 1


def test_entries_of_one_file_in_two_sizes_are_a_problem(here: Path) -> None:
    twice = [{"id": i, "file_name": "a.png", "width": 9, "height": 7 + i} for i in (1, 2)]
    (here / "a.json").write_text(json.dumps(coco(images=twice)))
    assert "in two sizes" in invoke("data", "check", "a.json").output


def test_a_submission_is_checked_with_its_lines(here: Path) -> None:
    (here / "s.csv").write_text("id,predicted\na,1 2 5 1\nb,\n")
    done = invoke("data", "check", "s.csv")
    assert done.exit_code == 0 and "2 images, 1 cells, 3 pixels" in done.output
    (here / "s.csv").write_text("id,predicted\na,5 1 1 2\na,2 1\n")
    done = invoke("data", "check", "s.csv", "--order", "column")
    assert done.exit_code == 1 and "line 2" in done.output
    assert str(Problem("a", "b", 1)) == "a, row 1: b"
