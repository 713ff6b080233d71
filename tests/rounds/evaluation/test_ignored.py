"""What people marked to be ignored is neither learnt as background, nor missed, nor found wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.evaluation.metrics import score_image


def box(y0: int, y1: int, x0: int, x1: int) -> NDArray[np.bool_]:
    bitmap = np.zeros((30, 30), bool)
    bitmap[y0:y1, x0:x1] = True
    return bitmap


def cells(*bitmaps: NDArray[np.bool_], **columns: Any) -> Instances:
    return masks.from_crops(30, 30, [(bitmap, 0, 0) for bitmap in bitmaps], **columns)


def test_a_prediction_in_a_crowd_is_not_counted() -> None:
    truth = cells(box(0, 5, 0, 5), box(10, 30, 10, 30), state=["human", "ignored"])
    predicted = cells(box(0, 5, 0, 5), box(12, 18, 12, 18), box(20, 25, 20, 25), score=0.9)
    found, human = scorable(predicted, truth)
    assert len(found) == 1 and len(human) == 1
    assert score_image("a", human, found).total.ap == 1.0


def test_a_prediction_that_lies_half_outside_is_a_false_one() -> None:
    truth = cells(box(0, 5, 0, 5), box(10, 30, 10, 30), state=["human", "ignored"])
    found, _ = scorable(cells(box(5, 15, 12, 20), box(4, 15, 12, 20)), truth)
    assert len(found) == 2  # exactly half, and less than half, inside


def test_a_human_cell_inside_a_crowd_is_found_all_the_same() -> None:
    truth = cells(box(12, 18, 12, 18), box(10, 30, 10, 30), state=["human", "ignored"])
    predicted = cells(box(12, 18, 12, 18), box(22, 26, 22, 26), score=0.9)
    found, human = scorable(predicted, truth)
    assert found.area.tolist() == [36] and human.area.tolist() == [36]


def test_without_ignored_cells_nothing_changes() -> None:
    truth = cells(box(0, 5, 0, 5), state="human")
    predicted = cells(box(0, 5, 0, 5), box(9, 12, 9, 12))
    assert scorable(predicted, truth) == (predicted, truth)


def test_the_share_inside_is_that_of_coco() -> None:
    rng = np.random.default_rng(0)
    crowd = cells(*(box(y, y + 9, x, x + 9) for y, x in rng.integers(0, 20, (3, 2))), state="ignored")
    predicted = cells(*(box(y, y + 6, x, x + 6) for y, x in rng.integers(0, 24, (40, 2))))
    found, human = scorable(predicted, crowd)
    size = [30, 30]
    union = coco.merge([{"size": size, "counts": rle} for rle in crowd.rle])
    share = coco.iou([{"size": size, "counts": rle} for rle in predicted.rle], [union], [1])[:, 0]
    assert len(human) == 0 and len(found) == int((share <= 0.5).sum())
    assert 0 < len(found) < 40
