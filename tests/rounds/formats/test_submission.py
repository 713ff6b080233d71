"""Kaggle submissions: what is written is read back the same, and the checker finds what is wrong."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.formats.base import parts_of
from cellsemi.rounds.formats.kaggle import writer
from cellsemi.rounds.formats.kaggle.check import MAX_PROBLEMS, SubmissionReport, check
from cellsemi.rounds.formats.kaggle.reader import RleCsv
from cellsemi.rounds.formats.kaggle.writer import write_column_major, write_submission
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.schemas import ImageRecord

Order = Literal["row", "column"]
SIZE = (3, 4)
SIZES = {"a": SIZE, "b": SIZE}


def record(image_id: str, bitmaps: Sequence[NDArray[Any]], size: tuple[int, int] = SIZE, **columns: Any) -> ImageRecord:
    crops = [(np.asarray(bitmap, bool), 0, 0) for bitmap in bitmaps]
    return ImageRecord(image_id, *size, "test", instances=masks.from_crops(*size, crops, **columns))


def boxes(*corners: tuple[int, int, int, int]) -> list[NDArray[np.bool_]]:
    found = []
    for x0, y0, x1, y1 in corners:
        mask = np.zeros(SIZE, bool)
        mask[y0:y1, x0:x1] = True
        found.append(mask)
    return found


def checked(tmp_path: Path, content: str | bytes, order: Order = "row", **options: Any) -> SubmissionReport:
    path = tmp_path / "s.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return check(path, options.get("sizes", SIZES), order)


# --- writing --------------------------------------------------------------------------------------------


def test_rows_are_sorted_runs_and_an_image_without_cells_has_an_empty_row(tmp_path: Path) -> None:
    out = tmp_path / "new" / "submission.csv"
    records = [record("a[1]", boxes((1, 0, 3, 2), (0, 2, 1, 3))), record("b", [])]
    done = write_submission(iter(records), out, ("cell",))
    assert out.read_bytes() == b"id,predicted\na[1],2 2 6 2\na[1],9 1\nb,\n"
    assert (done.images, done.cells, done.files, dict(done.losses)) == (2, 2, ["submission.csv"], {})
    write_column_major(records, out, ("cell",))
    assert out.read_bytes() == b"id,predicted\na[1],4 2 7 2\na[1],3 1\nb,\n"
    assert [path.name for path in out.parent.iterdir()] == ["submission.csv"]


def test_the_higher_score_keeps_the_pixel_and_every_loss_is_counted(tmp_path: Path) -> None:
    cells = boxes((0, 0, 2, 2), (1, 0, 3, 2), (1, 1, 2, 2), (3, 2, 4, 3))
    states = ["predicted", "accepted", "predicted", "ignored"]
    given = record("a", cells, score=[0.5, 0.9, 0.2, 0.9], state=states, class_id=[0, 1, 0, 1])
    done = write_submission([given], tmp_path / "s.csv", ("x", "y"))
    assert (tmp_path / "s.csv").read_text() == "id,predicted\na,1 1 5 1\na,2 2 6 2\n"
    assert dict(done.losses) == {
        "pixels given to a higher-scored cell": 3,
        "cells covered whole by others": 1,
        "ignored cells": 1,
        "cells whose score is not written": 2,
        "cells whose class is not written": 2,
    }
    assert (done.images, done.cells) == (1, 2)


def test_of_equal_scores_the_first_keeps_the_pixel(tmp_path: Path) -> None:
    done = write_submission([record("a", boxes((0, 0, 2, 1), (1, 0, 3, 1)))], tmp_path / "s.csv", ("cell",))
    assert (tmp_path / "s.csv").read_text() == "id,predicted\na,1 2\na,3 1\n"
    assert dict(done.losses) == {"pixels given to a higher-scored cell": 1}


def test_ids_with_commas_and_quotes_are_quoted(tmp_path: Path) -> None:
    write_submission([record('a,"b"', boxes((0, 0, 1, 1))), record("é", [])], tmp_path / "s.csv", ("cell",))
    with (tmp_path / "s.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["id", "predicted"], ['a,"b"', "1 1"], ["é", ""]]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([record("a", []), record("a", [])], "image id 'a' comes twice"),
        ([record("a\nb", [])], "cannot stand in a line"),
        ([record(" ", [])], "cannot stand in a line"),
        ([ImageRecord("a", 3, 4, "unlabelled")], "image 'a' has no cells and is not known to be empty"),
    ],
)
def test_what_cannot_be_submitted_leaves_no_file(tmp_path: Path, records: list[ImageRecord], words: str) -> None:
    with pytest.raises(DataError, match=words):
        write_submission(records, tmp_path / "s.csv", ("cell",))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_fails_its_check_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.csv").write_text("old")
    monkeypatch.setattr(writer.rle, "texts_of", lambda *_: ["2 2 1 1"])
    with pytest.raises(DataError, match=r"s\.csv: the submission is not valid .*\n  line 2: pair 2: the pairs are not"):
        write_submission([record("a", boxes((0, 0, 1, 1)))], tmp_path / "s.csv", ("cell",))
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv"] and (tmp_path / "s.csv").read_text() == "old"


@st.composite
def annotated(draw: st.DrawFn) -> tuple[tuple[int, int], list[NDArray[np.bool_]]]:
    """A size and up to five rectangles inside it, which overlap or not."""
    height, width = draw(st.integers(2, 9)), draw(st.integers(2, 9))
    found = []
    for _ in range(draw(st.integers(0, 5))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask = np.zeros((height, width), bool)
        mask[y : draw(st.integers(y + 1, height)), x : draw(st.integers(x + 1, width))] = True
        found.append(mask)
    return (height, width), found


@pytest.mark.parametrize("order", ["row", "column"])
@given(data=st.lists(annotated(), min_size=1, max_size=3), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_written_and_read_again_the_cells_are_those_without_overlaps(
    tmp_path_factory: pytest.TempPathFactory, data: list[Any], seed: int, order: Order
) -> None:
    root = tmp_path_factory.mktemp("round")
    (root / "images").mkdir()
    rng = np.random.default_rng(seed)
    records = []
    for number, (size, found) in enumerate(data):
        (root / "images" / f"i{number}.png").write_bytes(to_png(rng.integers(0, 255, size, np.uint8)))
        records.append(record(f"i{number}", found, size, score=rng.random(len(found))))
    write_submission(records, root / "s.csv", ("cell",), order)
    options = {"images": "images", "annotations": "s.csv", "pixel_order": order}
    (part,) = parts_of(DataConfig(source="rle-csv", root=str(root), **options))
    for item, kept in zip(RleCsv(part).items(), records, strict=True):
        assert kept.instances is not None
        expected, _ = masks.without_overlaps(kept.instances)
        cells = item.load().record.instances
        assert cells is not None and (cells.rle, cells.area.tolist()) == (expected.rle, expected.area.tolist())
        assert np.array_equal(cells.bbox, expected.bbox)


# --- checking -------------------------------------------------------------------------------------------


def test_a_right_file_is_counted(tmp_path: Path) -> None:
    report = checked(tmp_path, "id,predicted\na,1 2 5 2\nb,\na,9 1\n")
    assert report == SubmissionReport(images=2, cells=2, pixels=5)
    assert checked(tmp_path, b'id,predicted\r\n"a","1 2"\r\nb,').problems == []


@pytest.mark.parametrize(
    ("rows", "problems"),
    [
        ("a,1 2 5\nb,\n", ["line 2: pair 2: the start 5 has no length"]),
        ("a,5 1 1 2\nb,\n", ["line 2: pair 2: the pairs are not sorted"]),
        ("a,1 3 3 1\nb,\n", ["line 2: pairs overlap: 1 pixels stand twice in this row"]),
        ("a,1 3\na,9 1\na,2 2 9 1\nb,\n", ["line 4: pairs overlap: 2 pixels are also in line 2",
                                            "line 4: pairs overlap: 1 pixels are also in line 3"]),
        ("a,1 3\nb,1 3\n", []),
        ("a,12 2\nb,\n", ["line 2: pair 1: the run 12 2 ends beyond the 12 pixels"]),
        ("a,0 2\nb,\n", ["line 2: pair 1: 0 2 is no run"]),
        ("a,1 0 3 -1\nb,\n", ["line 2: pair 1: 1 0 is no run"]),
        ("a,1 x\nb,\n", ["line 2: pair 1: 'x' is not a whole number"]),
        ("a,1.0 2\nb,\n", ["line 2: pair 1: '1.0' is not"]),
        (f"a,1 {10**30}\nb,\n", ["line 2: pair 1: '10000000000000000000' is not"]),
        ("c,1 1\na,\nb,\n", ["line 2: there is no image 'c'"]),
        ("a,1 1\n", ["image 'b' has no row"]),
        ("", ["image 'a' has no row", "image 'b' has no row"]),
        ("a,3 1\nb,\na,3 1\n", ["line 4: the same row as line 2", "line 4: pairs overlap: 1 pixels are also"]),
        ("a,\nb,\na,\n", ["line 2: nothing predicted", "line 4: the same row as line 2", "line 4: nothing predicted"]),
        ("a,1 1\na,\nb,\n", ["line 3: nothing predicted, but the image has other rows"]),
        ("a\nb,\n", ["line 2: expected an id, a comma and run lengths, found 'a'", "image 'a' has no row"]),
        ("a,1 1,2\nb,\n", ["line 2: expected an id", "image 'a' has no row"]),
        ("\na,\nb,\n", ["line 2: expected an id, a comma and run lengths, found ''"]),
        (" ,1 1\na,\nb,\n", ["line 2: the id is empty"]),
    ],
)  # fmt: skip
def test_every_problem_is_named_with_its_line(tmp_path: Path, rows: str, problems: list[str]) -> None:
    report = checked(tmp_path, f"id,predicted\n{rows}")
    assert len(report.problems) == len(problems) == report.count, report.problems
    assert all(found.startswith(expected) for found, expected in zip(report.problems, problems, strict=True))


@pytest.mark.parametrize("header", ["", "id,predicted,x", "ImageId,EncodedPixels", "﻿id,predicted", "predicted,id"])
def test_another_header_is_a_problem(tmp_path: Path, header: str) -> None:
    (problem,) = checked(tmp_path, f"{header}\na,1 1\n").problems
    assert problem.startswith("line 1: the header is ") and problem.endswith("expected 'id,predicted'")


def test_bytes_that_are_no_text_and_files_that_are_not_there(tmp_path: Path) -> None:
    assert checked(tmp_path, b"id,predicted\n\xff,1 1\na,\nb,\n").problems == ["line 2: not UTF-8"]
    with pytest.raises(DataError, match="cannot be read"):
        check(tmp_path / "nowhere.csv", None, "row")


def test_without_sizes_the_ids_and_the_edge_are_not_judged(tmp_path: Path) -> None:
    assert checked(tmp_path, "id,predicted\nz,100 5\n", sizes=None) == SubmissionReport(images=1, cells=1, pixels=5)


def test_problems_are_all_counted_and_a_thousand_are_worded(tmp_path: Path) -> None:
    report = checked(tmp_path, "id,predicted\n" + "".join(f"z{i},1 1\n" for i in range(1500)))
    assert report.count == 1502 and len(report.problems) == MAX_PROBLEMS


def test_runs_over_a_line_end_are_counted_for_the_stated_order(tmp_path: Path) -> None:
    content = "id,predicted\na,4 2 8 1\nb,1 12\n"
    assert checked(tmp_path, content).crossing == 2
    assert checked(tmp_path, "id,predicted\na,4 2 8 1\nb,\n", "column").crossing == 0


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.lists(st.tuples(st.integers(1, 12), st.integers(1, 3)), min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None, max_examples=200)
def test_the_verdict_is_that_of_sets_of_pixels(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    used: dict[str, set[int]] = {"a": set(), "b": set()}
    lines, valid = ["id,predicted"], True
    for image_id, pairs in rows:
        lines.append(f"{image_id},{' '.join(f'{start} {length}' for start, length in pairs)}")
        starts = [start for start, _ in pairs]
        valid &= starts == sorted(starts)
        for start, length in pairs:
            pixels = set(range(start, start + length))
            valid &= not (pixels & used[image_id]) and max(pixels) <= 12
            used[image_id] |= pixels
    lines += [f"{image_id}," for image_id, pixels in used.items() if not pixels]
    report = checked(tmp_path_factory.mktemp("sets"), "\n".join(lines) + "\n")
    assert (report.count == 0) == valid, (lines, report.problems)
    if valid:
        assert report.pixels == sum(map(len, used.values())) and report.cells == len(rows)


def test_the_checker_imports_nothing_of_the_codec_or_the_writer() -> None:
    from cellsemi.rounds.formats.kaggle.check import __file__

    source = Path(__file__).read_text(encoding="utf-8")
    ours = [line for line in source.splitlines() if line.startswith("from cellsemi")]
    assert ours == ["from cellsemi.configs.errors import DataError"]
