"""Each cell has its reason, in the words and with the numbers of what decided."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellsemi.models.explanation import Explanation
from cellsemi.orchestrator.apply.ensemble_predictor import Answer
from cellsemi.orchestrator.explain.reasons import COVERED, cell_rows, pseudo_rows
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.pseudo_labels.filter import REASONS, filter_cells
from cellsemi.rounds.pseudo_labels.thresholds import ChosenThresholds, Thresholds

SIZE = 60
CLASSES = ("round", "long")


def squares(*corners: tuple[int, int], side: int = 10, **columns: Any) -> Instances:
    return masks.from_crops(SIZE, SIZE, [(np.ones((side, side), bool), x, y) for x, y in corners], **columns)


def answer() -> Answer:
    """Two members: both found the first cell, `a` alone the second, and `b` one that is under a better one."""
    a = squares((0, 0), (20, 0), score=[0.9, 0.3], class_id=[0, 1])
    b = squares((0, 0), (2, 2), score=[0.8, 0.2])
    dropped = squares((40, 40), side=2, score=0.7, state="rejected", reason="4 px, fewer than inference.min_area_px 9")
    fused = squares((20, 0), (0, 0), score=[0.15, 0.75], class_id=[1, 0], votes=[1, 2], agreement=[1, 0.9])
    return Answer(
        {"a": Explanation(a, dropped=dropped), "b": Explanation(b)},
        {"a": a.with_(score=[0.8, 0.3]), "b": b},
        fused,
        [(("a", 1),), (("a", 0), ("b", 0))],
    )


def test_all_cells_are_listed_best_first_with_what_decided() -> None:
    truth = masks.from_label_map(np.pad(np.ones((10, 5), int), ((0, 50), (0, 55))), state="human")
    cells, rows = cell_rows(answer(), Cutoffs((0.5, 0.2), (0, 0)), CLASSES, truth)
    assert [(row.number, row.kept, row.why) for row in rows] == [
        (1, True, "score at least 0.500: 0.750"),
        (2, False, "score below 0.200: 0.150"),
        (3, False, "a: 4 px, fewer than inference.min_area_px 9"),
        (4, False, f"b: {COVERED}"),
    ]
    assert rows[0].found_by == "a 0.90 -> 0.80, b 0.80" and rows[1].found_by == "a 0.30"
    assert [(row.x, row.y, row.area_px) for row in rows] == [(5, 5, 100), (25, 5, 100), (41, 41, 4), (7, 7, 100)]
    assert [row.class_name for row in rows] == ["round", "long", "round", "round"]
    assert (rows[0].votes, rows[0].members, rows[0].min_score) == (2, 2, 0.5)
    assert rows[0].truth_iou == pytest.approx(0.5) and rows[1].truth_iou == 0
    assert cells.score.tolist() == pytest.approx([row.score for row in rows])


def test_without_human_labels_there_is_no_truth() -> None:
    assert {row.truth_iou for row in cell_rows(answer(), Cutoffs((0.5, 0.2), (0, 0)), CLASSES, None)[1]} == {None}


def test_what_is_kept_is_what_the_cutoffs_keep() -> None:
    keep, given = Cutoffs((0.5, 0.1), (0, 0)), answer()
    cells, rows = cell_rows(given, keep, CLASSES, None)
    kept = cells.select([i for i, row in enumerate(rows) if row.kept])
    assert sorted(kept.rle) == sorted(keep.kept(given.cells).rle) and len(kept) == 2


def test_every_reason_of_the_filter_has_its_sentence() -> None:
    limits = ChosenThresholds(accept=0.6, reject=0.3, min_area_px=50, max_area_px=300, why="")
    cells = Instances.concat(
        SIZE,
        SIZE,
        [
            squares((0, 0), (12, 0), (24, 0), (36, 0), quality=[0.9, 0.5, 0.2, 0.9], votes=[2, 2, 2, 1], score=0.9),
            squares((0, 20), side=5, quality=0.9, votes=2, score=0.9),
            squares((20, 20), side=20, quality=0.9, votes=2, score=0.9),
            squares((1, 1), side=8, quality=0.7, votes=2, score=0.9),
        ],
    )
    filtered = filter_cells(cells, Thresholds({"round": limits}), 2, ("round",), 1)
    rows = pseudo_rows(filtered, {"round": limits}, 2, ("round",))
    assert {row.reason for row in rows} == set(REASONS)
    assert [(row.state, row.why) for row in rows] == [
        ("accepted", "quality 0.900, at least 0.600; size and votes as asked for"),
        ("ignored", "quality 0.500, between 0.300 and 0.600"),
        ("rejected", "quality 0.200, below 0.300"),
        ("ignored", "1 of 2 votes that are asked for; quality 0.900, at least 0.300"),
        ("ignored", "25 px, fewer than 50; quality 0.900, at least 0.600"),
        ("ignored", "400 px, more than 300"),
        ("ignored", "more than .6 of it lies in better accepted cells"),
    ]
    assert rows[0].weight == pytest.approx(0.9) and rows[1].weight == 0
