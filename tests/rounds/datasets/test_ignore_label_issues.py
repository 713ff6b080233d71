"""data.label_issues: a table as written and as people edit it, what it changes in an ingest, and what it must not."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.runs.label_issues import to_csv
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import from_crops, from_label_map
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.datasets.ignore_label_issues import ignore, table_sha256
from cellsemi.rounds.datasets.import_shards import import_data
from cellsemi.rounds.datasets.ingest import ingest
from cellsemi.rounds.datasets.ingest_report import IngestReport
from cellsemi.rounds.datasets.label_issue_file import LabelIssueRow, read_table
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.schemas import LABEL_ISSUES, ImageRecord

HEIGHT, WIDTH = 20, 24
LABELS = np.zeros((HEIGHT, WIDTH), np.uint8)
LABELS[2:8, 3:9], LABELS[10:15, 10:20], LABELS[16:19, 1:5] = 1, 2, 3
BOXES = [(3, 2, 9, 8), (10, 10, 20, 15), (1, 16, 5, 19)]  # x0, y0, x1, y1
MISSED = np.zeros((HEIGHT, WIDTH), bool)
MISSED[1:6, 14:17] = MISSED[3:5, 13:20] = True
MISSED_BOX = (13, 1, 20, 6)
SPLIT_OF = {
    "a": "labelled", "b": "labelled", "v": "val", "w": "val", "t": "test", "u": "unlabelled",
}  # fmt: skip


def reference_rle(mask: np.ndarray[Any, Any]) -> str:
    encoded: bytes = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return encoded.decode()


def row(image_id: str, kind: str = "not-found", cell: Any = 0, **more: Any) -> dict[str, Any]:
    box = MISSED_BOX if cell is None else BOXES[cell]
    values: dict[str, Any] = dict.fromkeys(LABEL_ISSUES.names)
    values |= {"image_id": image_id, "split": "val", "kind": kind, "cell": cell, "iou": 0.0, "confidence": 0.5}
    values |= dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)) | {"reason": "no, really", "sheet": "s.png"}
    return values | {"rle": reference_rle(MISSED) if cell is None else None} | more


def table(here: Path, *rows: dict[str, Any], name: str = "label_issues.csv") -> Path:
    path = here / name
    if path.suffix == ".csv":
        files.write_text(path, to_csv(rows))
    else:
        shards.write_rows(path, rows, LABEL_ISSUES, "h")
    return path


def data_set(here: Path) -> Path:
    root = here / "d"
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "masks").mkdir(exist_ok=True)
    for i, image_id in enumerate(SPLIT_OF):
        pixels = np.random.default_rng(i).integers(0, 256, LABELS.shape, np.uint8)
        (root / "images" / f"{image_id}.png").write_bytes(to_png(pixels))
        (root / "masks" / f"{image_id}.png").write_bytes(to_png(LABELS))
    lines = ["id,split", *(f"{image_id},{split}" for image_id, split in SPLIT_OF.items())]
    (root / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    return root


def config(here: Path, issues: Path | None, **options: Any) -> Config:
    named = None if issues is None else str(issues)
    return Config(data=DataConfig(source="label-maps", root=str(data_set(here)), label_issues=named, **options))


def read(here: Path, issues: Path | None, **options: Any) -> tuple[IngestReport, dict[str, ImageRecord]]:
    report = ingest(config(here, issues, **options), here / "out", "h", lambda *_: None)
    splits = ("labelled", "val", "test", "unlabelled")
    return report, {r.image_id: r for split in splits for r in shards.read_folder(here / "out" / split)}


def cells_of(record: ImageRecord) -> Instances:
    assert record.instances is not None
    return record.instances


# --- what it changes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["label_issues.csv", "label_issues.parquet"])
def test_the_cells_that_are_named_are_ignored_and_nothing_else_changes(tmp_path: Path, name: str) -> None:
    before = read(tmp_path, None)[1]
    path = table(tmp_path, row("v", cell=1), row("a", "outline", 2), name=name)
    report, after = read(tmp_path, path)
    assert cells_of(after["v"]).state == ("human", "ignored", "human")
    assert cells_of(after["v"]).reason == ("", "suspect: not-found", "")
    assert cells_of(after["a"]).state == ("human", "human", "ignored")
    for image_id, was in before.items():
        if was.instances is not None:
            assert cells_of(after[image_id]).rle == was.instances.rle
        if image_id not in ("v", "a"):
            assert shards_row(after[image_id]) == shards_row(was)
    assert report.cells == {"labelled": 5, "unlabelled": 0, "val": 5, "test": 3}
    assert report.ignored == {"labelled": 1, "unlabelled": 0, "val": 1, "test": 0}


def shards_row(record: ImageRecord) -> tuple[Any, ...]:
    cells = record.instances
    told = None if cells is None else (cells.rle, cells.state, cells.reason, cells.class_id.tolist())
    return (record.image_id, record.split, record.image, told)


def test_a_place_that_nobody_drew_is_ignored_with_the_mask_that_the_models_see(tmp_path: Path) -> None:
    report, after = read(tmp_path, table(tmp_path, row("v", "not-drawn", None)))
    cells = cells_of(after["v"])
    assert cells.state == ("human", "human", "human", "ignored") and cells.reason[3] == "suspect: not-drawn"
    assert np.array_equal(decode(cells.rle[3], HEIGHT, WIDTH), MISSED)
    assert (tuple(cells.bbox[3]), cells.area[3]) == (MISSED_BOX, MISSED.sum())
    assert report.label_issues is not None and report.label_issues.added == 1
    seen = from_crops(HEIGHT, WIDTH, [(MISSED, 0, 0)])
    assert len(scorable(seen, cells)[0]) == 0  # a model that sees it is not wrong


def test_without_a_mask_the_box_is_ignored(tmp_path: Path) -> None:
    cells = cells_of(read(tmp_path, table(tmp_path, row("v", "not-drawn", None, rle=None)))[1]["v"])
    x0, y0, x1, y1 = MISSED_BOX
    box = np.zeros((HEIGHT, WIDTH), bool)
    box[y0:y1, x0:x1] = True
    assert np.array_equal(decode(cells.rle[3], HEIGHT, WIDTH), box) and cells.area[3] == box.sum()


def test_an_image_may_be_in_another_split_than_when_it_was_judged(tmp_path: Path) -> None:
    report, after = read(tmp_path, table(tmp_path, row("a", split="val"), row("v", split="labelled")))
    assert cells_of(after["a"]).state[0] == cells_of(after["v"]).state[0] == "ignored"
    assert report.label_issues is not None and report.label_issues.cells == {
        "labelled": {"not-found": 1},
        "val": {"not-found": 1},
    }


def test_every_row_is_counted_and_told(tmp_path: Path) -> None:
    rows = [row("v"), row("v", "outline", 1), row("v", "class", 1), row("w", "not-drawn", None), row("a", cell=2)]
    report, _ = read(tmp_path, path := table(tmp_path, *rows, row("w", "not-drawn", None)))
    found = report.label_issues
    assert found is not None and (found.rows, found.added) == (6, 1)
    assert found.cells == {
        "labelled": {"not-found": 1},
        "val": {"not-found": 1, "outline and class": 1, "not-drawn": 1},
    }
    assert found.unused == {"name what is ignored without them": 1}
    assert found.sha256 == files.sha256_bytes(path.read_bytes())
    assert report.to_json()["label_issues"]["cells"]["labelled"] == {"not-found": 1}
    told = "\n".join(report.notes)
    for words in ("(data.label_issues): 6 rows", "1 labelled cells are ignored as label issues: 1 not-found",
                  "3 val cells are ignored as label issues: 1 not-drawn, 1 not-found, 1 outline and class",
                  "1 rows change nothing, they name what is ignored", "val is scored without them"):  # fmt: skip
        assert words in told, (words, told)
    assert report.ignored["val"] == 3 and report.ignored["labelled"] == 1


def test_rows_of_images_that_are_not_read_are_counted(tmp_path: Path) -> None:
    path = table(tmp_path, *(row(image_id, cell=i) for i, image_id in enumerate("ab")))
    report, after = read(tmp_path, path, labelled_limit=1, limit_rest="unlabelled")
    assert report.label_issues is not None
    assert report.label_issues.unused == {"are of images that data.labelled_limit does not draw": 1}
    assert sum(report.label_issues.cells["labelled"].values()) == 1
    assert [after[i].instances is None for i in "ab"].count(True) == 1  # in the pool, its labels hidden
    broken = config(tmp_path, path, max_quarantined=0.5)
    (tmp_path / "d" / "images" / "a.png").write_bytes(b"no image")
    found = ingest(broken, tmp_path / "out2", "h", lambda *_: None).label_issues
    assert found is not None and found.unused == {"are of images that cannot be used": 1}


def test_without_a_table_nothing_is_told(tmp_path: Path) -> None:
    report, _ = read(tmp_path, None)
    assert report.label_issues is None and report.notes == [] and report.to_json()["label_issues"] is None


def test_the_fingerprint_follows_what_stands_in_the_table(tmp_path: Path) -> None:
    path = table(tmp_path, row("v"), row("a"))
    first = table_sha256(path)
    assert first == table_sha256(path)
    table(tmp_path, row("v"))
    assert table_sha256(path) != first
    (tmp_path / "label_issues.csv").unlink()
    with pytest.raises(DataError, match=r"label_issues.csv: cannot be read .*data.label_issues names it"):
        table_sha256(path)


def test_an_import_that_ignored_them_says_so_and_takes_the_same_table_again(tmp_path: Path) -> None:
    path = table(tmp_path, row("v", cell=1), row("w", "not-drawn", None))
    report = import_data(config(tmp_path, path), tmp_path / "shards", lambda *_: None)
    content = files.read_json(tmp_path / "shards" / "import.json")["report"]["label_issues"]
    assert content["cells"]["val"] == {"not-found": 1, "not-drawn": 1} and report.ignored["val"] == 2
    again = Config(data=DataConfig(source="shards", root=str(tmp_path / "shards"), label_issues=str(path)))
    found = ingest(again, tmp_path / "out", "h", lambda *_: None)
    assert found.label_issues is not None and found.label_issues.unused == {"name what is ignored without them": 2}
    assert found.ignored == report.ignored


@given(st.data())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_a_naive_reading_of_the_rows_comes_to_the_same(data: st.DataObject) -> None:
    kinds = st.sampled_from(["not-found", "outline", "class"])
    picked = data.draw(st.lists(st.tuples(st.integers(0, 2), kinds), max_size=6))
    states = data.draw(st.lists(st.sampled_from(["human", "ignored"]), min_size=3, max_size=3))
    cells = from_label_map(LABELS, state=states)
    rows = [LabelIssueRow("x", "v", kind, cell, BOXES[cell], None) for cell, kind in picked]  # type: ignore[arg-type]
    after, counts, already = ignore(cells, rows)
    named = {cell for cell, _ in picked}
    assert [s == "ignored" for s in after.state] == [s == "ignored" or i in named for i, s in enumerate(states)]
    assert already == sum(states[cell] == "ignored" for cell, _ in picked)
    assert sum(counts.values()) == len({cell for cell in named if states[cell] == "human"})
    assert after.rle == cells.rle and np.array_equal(after.bbox, cells.bbox)


# --- as people edit it ----------------------------------------------------------------------------------


def parsed(path: Path) -> list[tuple[Any, ...]]:
    return [(r.image_id, r.kind, r.cell, r.bbox, r.rle) for r in read_table(path)]


def test_the_csv_and_the_parquet_are_the_same_table(tmp_path: Path) -> None:
    rows = (row("v", cell=1), row('a,"b', "not-drawn", None))
    first, second = (parsed(table(tmp_path, *rows, name=f"s.{kind}")) for kind in ("csv", "parquet"))
    rle = reference_rle(MISSED).encode()
    assert first == second == [("v", "not-found", 1, BOXES[1], None), ('a,"b', "not-drawn", None, MISSED_BOX, rle)]


def test_rows_may_go_columns_may_come_and_numbers_may_become_decimals(tmp_path: Path) -> None:
    path = table(tmp_path, row("v", cell=1), row("a", "not-drawn", None))
    records = list(csv.DictReader(StringIO(path.read_text(encoding="utf-8"))))
    edited = StringIO()
    names = ["note", *reversed(LABEL_ISSUES.names)]
    names.remove("confidence")
    writer = csv.DictWriter(edited, names, extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()
    for record in records:
        writer.writerow(record | {"note": "sure", "x0": f"{record['x0']}.0", "cell": record["cell"] and "1.0"})
    (tmp_path / "edited.csv").write_bytes(b"\xef\xbb\xbf" + edited.getvalue().encode())
    assert parsed(tmp_path / "edited.csv") == parsed(path)
    table(tmp_path, *[], name="empty.csv")
    assert read_table(tmp_path / "empty.csv") == []


def test_a_parquet_of_another_program_is_read(tmp_path: Path) -> None:
    path = table(tmp_path, row("v", cell=1), row("a", "not-drawn", None), name="s.parquet")
    values = pq.read_table(path).to_pylist()
    loose = [r | {"cell": float("nan") if r["cell"] is None else float(r["cell"])} for r in values]
    pq.write_table(pa.Table.from_pylist(loose), tmp_path / "loose.parquet")
    assert parsed(tmp_path / "loose.parquet") == parsed(path)


def written(here: Path, text: str) -> Path:
    (here / "s.csv").write_text(text, encoding="utf-8")
    return here / "s.csv"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": ""}, "line 2: no image_id"),
        ({"split": "test"}, "line 2: image 'v' is of test, and labels of test are never altered"),
        ({"split": "pool"}, "split 'pool', expected labelled or val"),
        ({"kind": "missed"}, "kind 'missed', expected one of not-found, outline"),
        ({"cell": None}, "no cell in a row of kind 'not-found'"),
        ({"kind": "not-drawn"}, "cell 0 in a row of kind 'not-drawn'"),
        ({"cell": -1}, "cell is '-1', expected a whole number"),
        ({"cell": "1.5"}, "cell is '1.5', expected a whole number"),
        ({"x0": "inf"}, "x0 is 'inf', expected a whole number"),
        ({"x0": 10**12}, "x0 is '1000000000000', expected a whole number"),
        ({"y1": None}, "y1 is '', expected a whole number"),
        ({"x1": 3}, r"the box \(3, 2, 3, 8\)"),
    ],
)
def test_a_row_that_cannot_be_is_named_by_its_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as raised:
        read_table(table(tmp_path, row("v") | change))
    assert str(raised.value).startswith(f"{tmp_path / 'label_issues.csv'}, line 2: ")


def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path) -> None:
    cases: list[tuple[Callable[[], Path], str]] = [
        (lambda: tmp_path / "none.csv", "none.csv: no such file; data.label_issues"),
        (lambda: tmp_path, "no such file"),
        (lambda: written(tmp_path, "id,rle\n"), "no column image_id, split, kind"),
        (lambda: written(tmp_path, to_csv([row("v")]).replace(",", "|")), "separated by commas or semicolons"),
        (lambda: written(tmp_path, ""), "no column"),
        (lambda: written(tmp_path, to_csv([row("v")]) + "v,val\n"), "line 3: 2 values, the header names 15 columns"),
        (lambda: written(tmp_path, to_csv([]).replace("sheet", "split")), "a column name stands twice"),
        (lambda: written(tmp_path, to_csv([])).rename(tmp_path / "s.txt"), "expected a .csv or a .parquet"),
        (lambda: written(tmp_path, to_csv([])).rename(tmp_path / "s.parquet"), "not a readable Parquet file"),
    ]
    assert read_table(written(tmp_path, to_csv([row("v")]).replace(",", ";"))) == read_table(
        written(tmp_path, to_csv([row("v")]))
    )
    for make, words in cases:
        with pytest.raises(DataError, match=words):
            read_table(make())


# --- what does not fit the data -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row("x"), "image 'x' is not in the data set"),
        (row("u"), "image 'u' is unlabelled, expected a labelled or val image"),
        (row("t"), "image 't' is a test image of this data set, and labels of test are never altered"),
        (
            row("v", cell=0, x0=4),
            r"the box \(4, 2, 9, 8\) of cell 0 of image 'v' is \(3, 2, 9, 8\) now; the annotations",
        ),
        (row("v", cell=1) | {"cell": 3}, "cell 3 of image 'v', which has 3 cells, from 0 on"),
        (row("v", "not-drawn", None, x1=25), "leaves image 'v', 24 px wide, 20 high"),
        (row("v", "not-drawn", None, y1=7), r"the mask \(rle\) does not fit its box \(13, 1, 20, 7\)"),
        (row("v", "not-drawn", None, rle=reference_rle(np.ones((9, 9)))), "the mask"),
        (row("v", "not-drawn", None, rle=reference_rle(MISSED & False)), "the mask"),
        (row("v", "not-drawn", None, rle="1e+14"), "the mask"),
        (row("v", "not-drawn", None, rle="o"), "the mask"),
    ],
)
def test_a_row_that_does_not_fit_the_data_stops_the_reading(tmp_path: Path, bad: dict[str, Any], words: str) -> None:
    path = table(tmp_path, row("w"), bad)
    with pytest.raises(DataError, match=words) as raised:
        read(tmp_path, path)
    assert str(raised.value).startswith(f"{path}, line 3: ")


def test_an_rle_that_is_no_text_of_run_lengths_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2: the rle is no COCO run lengths"):
        read_table(table(tmp_path, row("v", "not-drawn", None, rle="é")))


def test_a_box_is_that_of_the_cell_after_cleaning(tmp_path: Path) -> None:
    clean = {"min_area_px": 20}  # cell 2, of 12 px, goes
    report, after = read(tmp_path, table(tmp_path, row("v", cell=1)), clean=clean)
    assert cells_of(after["v"]).state == ("human", "ignored") and report.cleaned == {"too small, dropped": 5}
    with pytest.raises(DataError, match="cell 2 of image 'v', which has 2 cells"):
        read(tmp_path, table(tmp_path, row("v", cell=2)), clean=clean)


def test_a_table_that_leaves_no_label_is_refused_as_such(tmp_path: Path) -> None:
    every: Sequence[dict[str, Any]] = [row(image_id, cell=i) for image_id in "vw" for i in range(3)]
    with pytest.raises(DataError, match=r"none of the 2 images of the split 'val' has a cell"):
        read(tmp_path, table(tmp_path, *every))
