"""Label issues among human labels: each kind from cells made here, a naive judge, planted errors, and the command."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.run_folders import finish_first_round, finish_folder
from helpers.terminal import invoke
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.configs.errors import RunError, UsageError
from cellsemi.configs.loading import load_config
from cellsemi.rounds.calibration.calibration import calibrate
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import from_crops
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.colours import PALETTE
from cellsemi.rounds.datasets.ignore_label_issues import ignore
from cellsemi.rounds.datasets.label_issue_file import read_table
from cellsemi.rounds.evaluation.label_issues import Findings, LabelIssue, find_label_issues
from cellsemi.rounds.report import contact_sheet
from cellsemi.rounds.report.contact_sheet import Panel, _around
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image, to_png
from cellsemi.rounds.store.run import RunPaths, open_run
from cellsemi.rounds.store.schemas import LABEL_ISSUES, ImageRecord

SIZE = 80
NEVER = 10**6  # samples that are never reached: scores are taken as they are
Box = tuple[int, int, int, int]  # x0, y0, x1, y1
AGREED: tuple[Box, ...] = ((0, 60, 10, 70), (20, 60, 30, 70), (40, 60, 50, 70), (60, 60, 70, 70))


def cells(boxes: Sequence[Box], **columns: Any) -> Instances:
    made = [(np.ones((y1 - y0, x1 - x0), bool), x0, y0) for x0, y0, x1, y1 in boxes]
    return from_crops(SIZE, SIZE, made, **columns)


def drawn(*boxes: Box, class_id: Any = 0, state: Any = "human") -> Instances:
    return cells(boxes, class_id=class_id, state=state)


def seen(*boxes: Box, score: Any = 0.9, class_id: Any = 0) -> Instances:
    return cells(boxes, class_id=class_id, score=score)


def judge(predicted: Instances, truth: Instances, *more: tuple[Instances, Instances]) -> Findings:
    """One image, among others on which labels and models agree."""
    agreed = (seen(*AGREED), drawn(*AGREED))
    images = [("a", predicted, truth), *((f"b{i}", *pair) for i, pair in enumerate([agreed, *more]))]
    return find_label_issues(images, ("x", "y"), NEVER)


def told(found: Findings) -> list[tuple[str, int | None, int | None]]:
    return [(s.kind, s.cell, s.seen) for s in found.issues]


# --- each kind ------------------------------------------------------------------------------------------


def test_labels_that_the_models_agree_with_are_no_label_issues() -> None:
    assert told(judge(seen(*AGREED), drawn(*AGREED))) == []
    assert told(judge(seen(), drawn())) == []
    assert find_label_issues([], ("x",), 1).issues == ()


def test_a_cell_that_no_model_sees_is_a_label_issue_as_sure_as_its_class_is_found() -> None:
    found = judge(seen(*AGREED), drawn(*AGREED, (10, 10, 20, 20)))
    assert told(found) == [("not-found", 4, None)]
    (issue,) = found.issues
    assert issue.confidence == pytest.approx((4 + 1) / (4 + 2)) and issue.iou == 0
    assert (issue.bbox, issue.drawn_class, issue.seen_class) == ((10, 10, 20, 20), "x", None)
    assert issue.reason == "no model sees this x (IoU 0.00 at most); 83% of its class are found"


@pytest.mark.parametrize("score", [0.01, 0.9])
def test_a_cell_that_any_prediction_lies_on_was_found(score: float) -> None:
    found = judge(seen(*AGREED, (10, 10, 20, 20), score=[0.9] * 4 + [score]), drawn(*AGREED, (10, 10, 20, 20)))
    assert told(found) == []


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [(2, {"not-found", "not-drawn"}), (3, {"not-found", "not-drawn"}), (4, {"outline"}), (6, {"outline"}), (7, set())],
)
def test_the_bounds_of_iou_are_exact(rows: int, kinds: set[str]) -> None:
    found = judge(seen(*AGREED, (10, 10, 20, 10 + rows)), drawn(*AGREED, (10, 10, 20, 20)))
    assert {s.kind for s in found.issues} == kinds
    assert all(s.iou == pytest.approx(rows / 10) for s in found.issues)


def test_an_outline_that_some_prediction_agrees_with_is_none() -> None:
    box, half = (10, 10, 20, 20), (10, 10, 20, 15)
    truth = drawn(*AGREED, box)
    assert told(judge(seen(*AGREED, half, score=[0.9] * 4 + [0.95]), truth)) == [("outline", 4, 4)]
    assert told(judge(seen(*AGREED, half, box, score=[0.9] * 4 + [0.95, 0.1]), truth)) == []


def test_two_cells_drawn_as_one_are_one_label_issue() -> None:
    halves = ((10, 10, 20, 15), (10, 15, 20, 20))
    found = judge(seen(*AGREED, *halves), drawn(*AGREED, (10, 10, 20, 20)))
    assert told(found) == [("outline", 4, 4)]


def test_a_sure_prediction_where_nobody_drew_is_a_label_issue_an_unsure_one_is_not() -> None:
    found = judge(seen(*AGREED, (10, 10, 20, 20), (30, 10, 40, 20), score=[0.9] * 5 + [0.6]), drawn(*AGREED))
    assert told(found) == [("not-drawn", None, 4)]
    (issue,) = found.issues
    # The four others are right, by Laplace five of six, and their scores are alike.
    assert issue.confidence == pytest.approx(5 / 6) and (issue.drawn_class, issue.seen_class) == (None, "x")
    assert issue.bbox == (10, 10, 20, 20)


def test_another_class_is_a_label_issue_when_the_models_are_sure_of_it() -> None:
    box = (10, 10, 20, 20)
    other = (seen(*AGREED, class_id=1, score=0.7), drawn(*AGREED, class_id=1))
    for score, expected in ((0.95, [("class", 4, 4)]), (0.65, [])):
        predicted = seen(*AGREED, box, class_id=[0, 0, 0, 0, 1], score=[0.9] * 4 + [score])
        assert told(judge(predicted, drawn(*AGREED, box), other)) == expected
    surest = judge(seen(*AGREED, box, class_id=[0] * 4 + [1], score=[0.9] * 4 + [0.95]), drawn(*AGREED, box), other)
    assert surest.issues[0].reason == "drawn as x, the models are sure of y (IoU 1.00)"


def test_what_is_to_be_ignored_is_neither_judged_nor_counted() -> None:
    ignored, missed = (50, 10, 70, 30), (10, 10, 20, 20)
    truth = drawn(ignored, *AGREED, missed, state=["ignored"] + ["human"] * 5)
    found = judge(seen(*AGREED, (52, 12, 62, 22)), truth)
    assert told(found) == [("not-found", 5, None)]  # the index among all cells of the image


# --- what is trusted ------------------------------------------------------------------------------------


def test_sure_is_what_right_predictions_of_the_class_are_on_average_in_other_images() -> None:
    scores = np.array([0.6, 0.7, 0.8, 0.9], np.float32)
    more = [(seen(*AGREED, score=scores), drawn(*AGREED)), (seen(*AGREED, class_id=1), drawn(*AGREED, class_id=1))]
    judged = seen(*AGREED, score=0.5), drawn(*AGREED)
    found = judge(*judged, *more)
    plain = seen(*AGREED), drawn(*AGREED)
    for name, others in (("a", [plain, *more]), ("b0", [judged, *more])):
        quality = [calibrate(others, ("x", "y"), NEVER).apply(cells) for cells, _ in others]
        of_class = [np.concatenate([cells.quality[cells.class_id == c] for cells in quality]) for c in (0, 1)]
        assert found.trust[name].sure == pytest.approx([each.mean() for each in of_class], abs=1e-5)
    low = judge(seen(*AGREED), drawn(AGREED[0])).trust["b0"]
    assert low.sure.tolist() == [0.5, 0.5]  # what is likelier wrong than right is never sure
    one = judge(seen(*AGREED), drawn(*AGREED)).trust["a"]
    assert one.sure[1] == one.sure[0]  # a class without a right prediction takes the mean


def test_models_that_are_never_right_contradict_nobody() -> None:
    images = [(name, seen((0, 0, 9, 9), score=1.0), drawn((40, 40, 50, 50))) for name in "abc"]
    found = find_label_issues(images, ("x",), NEVER)
    assert [trust.sure.tolist() for trust in found.trust.values()] == [[np.inf]] * 3
    assert {s.kind for s in found.issues} == {"not-found"} and found.issues[0].confidence == pytest.approx(1 / 4)


def test_predictions_of_a_single_image_are_never_sure() -> None:
    found = find_label_issues([("a", seen(*AGREED, (10, 10, 20, 20)), drawn(*AGREED))], ("x",), NEVER)
    assert told(found) == []


def test_the_labels_of_an_image_neither_calibrate_nor_bound_its_own_predictions() -> None:
    generator = np.random.default_rng(0)
    pairs = [(seen(*AGREED, score=generator.random(4)), drawn(*AGREED[: generator.integers(1, 5)])) for _ in range(12)]
    changed = [*pairs[:3], (pairs[3][0], drawn()), *pairs[4:]]
    before, after = (find_label_issues([(str(i), *p) for i, p in enumerate(x)], ("x",), 8) for x in (pairs, changed))
    assert np.array_equal(before.seen["3"].quality, after.seen["3"].quality)
    assert before.trust["3"].sure == after.trust["3"].sure and before.trust["4"].sure != after.trust["4"].sure
    assert any(not np.array_equal(before.seen[i].quality, after.seen[i].quality) for i in before.seen)
    rest = [pair for i, pair in enumerate(pairs) if i % 5 != 3]
    assert np.array_equal(before.seen["3"].quality, calibrate(rest, ("x",), 8).apply(pairs[3][0]).quality)


# --- against a naive judge ------------------------------------------------------------------------------


def naive(found: Findings, truth: Instances) -> set[tuple[str, int | None]]:
    """(kind, human cell) of image "a" from full bitmaps, but for classes."""
    predicted = found.seen["a"]
    people = [decode(rle, SIZE, SIZE) for rle in truth.rle]
    models = [decode(rle, SIZE, SIZE) for rle in predicted.rle]
    sure = [q >= found.trust["a"].sure[c] for q, c in zip(predicted.quality, predicted.class_id, strict=True)]
    shares = [[((p & m).sum(), (p | m).sum()) for m in models] for p in people]
    expected: set[tuple[str, int | None]] = set()
    for i, row in enumerate(shares):
        near = [10 * inside > 3 * either for inside, either in row]
        if not any(near):
            expected.add(("not-found", i))
        elif any(n and s for n, s in zip(near, sure, strict=True)) and not any(5 * a > 3 * b for a, b in row):
            expected.add(("outline", i))
    for k, certain in enumerate(sure):
        if certain and not any(10 * row[k][0] > 3 * row[k][1] for row in shares):
            expected.add(("not-drawn", None))
    return expected


boxes = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(2, 8), st.integers(2, 8)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@given(st.lists(boxes, max_size=5), st.lists(st.tuples(boxes, st.sampled_from([0.2, 0.6, 0.9, 1.0])), max_size=5))
@settings(deadline=None, max_examples=60)
def test_a_naive_judge_comes_to_the_same(people: list[Box], models: list[tuple[Box, float]]) -> None:
    truth = drawn(*people)
    found = judge(seen(*(box for box, _ in models), score=[score for _, score in models]), truth)
    assert {(s.kind, s.cell) for s in found.issues if s.image_id == "a"} == naive(found, truth)


def test_planted_errors_are_found_and_stand_first() -> None:
    generator = np.random.default_rng(1)
    grid: list[Box] = [(x, y, x + 12, y + 12) for x in range(2, 66, 16) for y in range(2, 66, 16)]
    images, planted = [], set()
    for i in range(10):
        right = generator.random(len(grid)) < 0.8  # of the predictions; the others are low, and nothing is there
        score = np.where(right, generator.uniform(0.6, 1, len(grid)), generator.uniform(0, 0.4, len(grid)))
        kept = [box for box, there in zip(grid, right, strict=True) if there]
        gone = kept.pop(int(np.argmax(score[right])))
        planted.add((f"im{i}", gone))
        images.append((f"im{i}", seen(*grid, score=score), drawn(*kept)))
    found = find_label_issues(images, ("x",), 40)
    listed = [(s.image_id, s.bbox) for s in found.issues if s.kind == "not-drawn"]
    assert planted <= set(listed) and {s.kind for s in found.issues} == {"not-drawn"}
    assert [s.confidence for s in found.issues] == sorted((s.confidence for s in found.issues), reverse=True)
    assert find_label_issues(images, ("x",), 40).issues == found.issues


# --- the command ----------------------------------------------------------------------------------------


def finished_run(here: Path, count: int = 4) -> RunPaths:
    """A run whose ensemble of round 0 saw the val images: in im0 a label is missing, im1 has one too many."""
    config = load_config("demo", ["run.name=r", f"run.root={here / 'runs'}", "data.classes=[x, y]"]).config
    paths = open_run(config)
    truths, predictions = [], []
    for i in range(count):
        extra: tuple[Box, ...] = ((10, 10, 20, 20),) if i == 1 else ()
        pixels = np.full((SIZE, SIZE), 10 * i, np.float32 if i else np.uint8)
        content = to_png(pixels.astype(np.uint8))
        record = ImageRecord(f"im{i}", SIZE, SIZE, "val", image=content, source=f"im{i}.png", low=0.0, high=255.0)
        truths.append(record.with_(instances=drawn(*AGREED[i == 0 :], *extra)))
        predictions.append(record.with_(image=None, instances=None if i == 3 else seen(*AGREED)))
    for folder, records in ((paths.split("val"), truths), (paths.predictions(0, "ensemble", "val"), predictions)):
        shards.write_folder(folder, records, 3, "h")
        finish_folder(folder, count)
    finish_first_round(paths)
    return paths


def test_the_command_writes_a_table_and_pictures_and_changes_nothing(here: Path) -> None:
    paths = finished_run(here)
    before = {path: path.read_bytes() for path in paths.root.rglob("*") if path.is_file()}
    done = invoke("data", "label-issues", "r", "--json")
    assert done.exit_code == 0, done.output + str(done.exception)
    content = json.loads(done.stdout)
    assert (content["images"], content["cells"], content["unseen_images"], content["sheets"]) == (3, 12, 1, 1)
    assert content["sure_from"] == {"x": pytest.approx([0.9, 0.9], abs=1e-5), "y": pytest.approx([0.9, 0.9], abs=1e-5)}
    kinds = {(s["kind"], s["image_id"], s["cell"]) for s in content["label_issues"]}
    assert kinds == {("not-drawn", "im0", None), ("not-found", "im1", 4)}
    out = here / "label-issues-r"
    assert sorted(path.name for path in out.iterdir()) == ["label_issues.csv", "label_issues.parquet", "sheet-001.png"]
    assert shards.read_rows(out / "label_issues.parquet") == content["label_issues"]
    assert list(content["label_issues"][0]) == LABEL_ISSUES.names
    rows = list(csv.DictReader(StringIO((out / "label_issues.csv").read_text(encoding="utf-8"))))
    assert [(row["image_id"], row["sheet"], row["x0"]) for row in rows] == [
        (s["image_id"], "sheet-001.png", str(s["x0"])) for s in content["label_issues"]
    ]
    picture = decode_image((out / "sheet-001.png").read_bytes(), "sheet")
    assert picture.shape[1] == 2 * contact_sheet.PANEL_PX + 3 * contact_sheet.GAP_PX
    assert {PALETTE[0], PALETTE[1]} <= {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}
    assert {path: path.read_bytes() for path in paths.root.rglob("*") if path.is_file()} == before


def test_the_label_issue_is_marked_where_it_is(here: Path) -> None:
    finished_run(here)
    assert invoke("data", "label-issues", "r", "--out", "s").exit_code == 0
    issues = shards.read_rows(here / "s" / "label_issues.parquet")
    picture = decode_image((here / "s" / "sheet-001.png").read_bytes(), "sheet")
    top, left, panel = contact_sheet.GAP_PX + contact_sheet.TITLE_PX, contact_sheet.GAP_PX, contact_sheet.PANEL_PX
    high = panel + contact_sheet.GAP_PX + contact_sheet.TITLE_PX
    for i, issue in enumerate(issues):
        column = issue["kind"] == "not-drawn"  # seen stands right of drawn
        x = left + column * (panel + contact_sheet.GAP_PX)
        part = picture[top + i * high :, x:][:panel, :panel]
        rows, columns = np.nonzero((part == PALETTE[1]).all(2))
        place = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert place == tuple(issue[name] * panel // SIZE for name in ("x0", "y0", "x1", "y1"))


@pytest.mark.parametrize(
    ("middle", "size", "expected"),
    [(150, 300, (102, 198)), (5, 300, (0, 96)), (299, 300, (204, 300)), (9, 50, (0, 50))],
)
def test_a_picture_shows_what_is_around_and_lies_within_the_image(
    middle: int, size: int, expected: tuple[int, int]
) -> None:
    shown = _around(middle, 96, size)
    assert (shown.start, shown.stop) == expected


def test_a_panel_shows_its_window_and_nothing_else() -> None:
    record = ImageRecord("a", SIZE, SIZE, "val", image=to_png(np.zeros((SIZE, SIZE), np.uint8)), low=0.0, high=1.0)
    panel = Panel(record, drawn((30, 40, 38, 48), (0, 0, 8, 8)), ("x",), "val", np.s_[36:52, 28:44])
    picture = decode_image(contact_sheet.contact_sheet([panel]), "sheet")
    part = picture[contact_sheet.GAP_PX + contact_sheet.TITLE_PX :, contact_sheet.GAP_PX :][
        : contact_sheet.PANEL_PX, : contact_sheet.PANEL_PX
    ]
    rows, columns = np.nonzero((part == PALETTE[0]).all(2))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (60, 120, 300, 360)
    assert not (part == PALETTE[1]).all(2).any()


def test_the_words_name_what_was_done_and_what_was_not(here: Path) -> None:
    finished_run(here)
    done = invoke("data", "label-issues", "runs/r", "--out", "s")
    for words in ("ensemble of round 0 of r on val: 12 human cells of 3 images judged", "not judged: 1 images",
                  "2 to be checked: 1 not-found, 0 outline, 0 class, 1 not-drawn", "im1 at x 10, y 10: no model",
                  "s: label_issues.csv, label_issues.parquet, 1 pictures. Nothing in the run was changed.",
                  "--set data.label_issues=s/label_issues.csv"):  # fmt: skip
        assert words in done.output, (words, done.output)


@pytest.mark.parametrize("name", ["label_issues.csv", "label_issues.parquet"])
def test_the_table_ignores_in_the_labels_what_was_found(here: Path, name: str) -> None:
    paths = finished_run(here)
    assert invoke("data", "label-issues", "r", "--out", "s").exit_code == 0
    records = {record.image_id: record for record in shards.read_folder(paths.split("val"))}
    rows = read_table(here / "s" / name)
    assert [(row.image_id, row.kind, row.cell) for row in rows] == [("im0", "not-drawn", None), ("im1", "not-found", 4)]
    for row in rows:
        truth = records[row.image_id].instances
        assert truth is not None
        cells, counts, already = ignore(truth, [row])
        assert (counts, already) == ({row.kind: 1}, 0)
        (changed,) = (i for i, state in enumerate(cells.state) if state == "ignored")
        assert tuple(cells.bbox[changed]) == (AGREED[0] if row.kind == "not-drawn" else (10, 10, 20, 20))
        if row.kind == "not-drawn":
            assert (changed, cells.rle[changed]) == (len(truth), seen(*AGREED).rle[0])


def test_the_table_says_of_which_split_each_image_is(here: Path) -> None:
    finished_run(here)
    content = json.loads(invoke("data", "label-issues", "r", "--out", "s", "--json").stdout)
    assert [issue["split"] for issue in content["label_issues"]] == ["val", "val"]
    assert content["label_issues"][1]["rle"] is None


def test_predictions_that_are_not_of_the_images_are_refused(here: Path) -> None:
    paths = finished_run(here)
    folder = paths.predictions(0, "ensemble", "val")
    shards.write_folder(folder, list(shards.read_folder(folder))[:2], 3, "h")
    (folder / shards.part_name(1)).unlink()
    done = invoke("data", "label-issues", "r")
    assert isinstance(done.exception, RunError) and "not of the images in" in str(done.exception)


def test_a_folder_that_holds_something_and_a_run_without_rounds_are_refused(here: Path) -> None:
    paths = finished_run(here)
    (here / "s").mkdir()
    (here / "s" / "mine").write_text("x", encoding="utf-8")
    done = invoke("data", "label-issues", "r", "--out", "s")
    assert isinstance(done.exception, UsageError) and "not an empty folder" in str(done.exception)
    done = invoke("data", "label-issues", "r", "--split", "test")
    assert isinstance(done.exception, RunError) and "has not predicted the test images" in str(done.exception)
    done = invoke("data", "label-issues", "r", "--split", "labelled")
    assert isinstance(done.exception, UsageError) and "learned from these labels" in str(done.exception)
    paths.round_manifest(0).unlink()
    done = invoke("data", "label-issues", "r")
    assert isinstance(done.exception, RunError) and "no round is finished" in str(done.exception)
    assert not (here / "label-issues-r").exists()


def test_a_row_holds_every_column_of_the_table_but_the_split_and_the_sheet() -> None:
    row = LabelIssue("a", "class", 1, 2, (1, 2, 3, 4), "x", "y", 0.7, 0.9, "why", b"0A").to_row()
    assert row["rle"] == "0A"
    assert sorted([*row, "sheet", "split"]) == sorted(LABEL_ISSUES.names) and (row["x0"], row["y1"]) == (1, 4)
