"""COCO's mean average precision against pycocotools with its caps lifted."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.metrics import coco_map

Pair = tuple[Instances, Instances]
SIDE = 24


def reference(pairs: list[Pair]) -> tuple[float, float]:
    """mAP at .5 to .95 and at .5 by pycocotools; -1 without a true mask."""
    images = [{"id": k, "height": c.height, "width": c.width} for k, (c, _) in enumerate(pairs, start=1)]
    true = COCO()
    boxes = [
        {"image_id": k, "category_id": int(c) + 1, "segmentation": _segmentation(cells, i), "area": int(cells.area[i])}
        for k, (_, cells) in enumerate(pairs, start=1)
        for i, c in enumerate(cells.class_id)
    ]
    annotations = [{**each, "id": n, "iscrowd": 0, "bbox": [0, 0, 1, 1]} for n, each in enumerate(boxes, start=1)]
    true.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1}, {"id": 2}]}
    found = [
        {
            "image_id": k,
            "category_id": int(c) + 1,
            "segmentation": _segmentation(cells, i),
            "score": float(cells.score[i]),
        }
        for k, (cells, _) in enumerate(pairs, start=1)
        for i, c in enumerate(cells.class_id)
    ]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pycocotools about NumPy 2
        true.createIndex()
        ours = true.loadRes(found) if found else COCO()
        if not found:
            ours.dataset = {**true.dataset, "annotations": []}
            ours.createIndex()
        evaluation = COCOeval(true, ours, "segm")
        evaluation.params.maxDets = [1_000_000]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # IoU, recall, class, area, cap

    def mean(values: np.ndarray) -> float:
        known = values[values > -1]
        return float(known.mean()) if len(known) else -1.0

    return mean(precision), mean(precision[0])


def _segmentation(cells: Instances, i: int) -> dict[str, object]:
    return {"size": [cells.height, cells.width], "counts": cells.rle[i]}


@st.composite
def images(draw: st.DrawFn) -> list[Pair]:
    """Rectangles that often overlap by half or so, in two classes, with scores that repeat."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        sides = []
        for _ in range(2):
            corners = draw(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 3), st.integers(4, 10)), max_size=7))
            crops = [(np.ones((8, side), bool), x, y) for x, y, side in corners]
            count = len(crops)
            classes = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
            scores = draw(st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.9]), min_size=count, max_size=count))
            sides.append(masks.from_crops(SIDE, SIDE, crops, class_id=classes, score=scores))
        found.append((sides[0], sides[1]))
    return found


@settings(max_examples=60, deadline=None)
@given(images())
def test_it_is_that_of_pycocotools(pairs: list[Pair]) -> None:
    found, expected = coco_map(pairs), reference(pairs)
    if found is None:
        assert expected == (-1, -1)
    else:
        assert (found.map, found.map50) == pytest.approx(expected, abs=1e-9)


def test_a_perfect_prediction_of_many_cells_scores_1() -> None:
    """More than COCO's cap of 100 detections an image."""
    crops = [(np.ones((4, 4), bool), 5 * (k % 20), 5 * (k // 20)) for k in range(300)]
    cells = masks.from_crops(100, 100, crops, class_id=[0] * 300, score=np.linspace(0.1, 1, 300))
    found = coco_map([(cells, cells)])
    assert found is not None and (found.map, found.map50) == (1, 1)
    assert reference([(cells, cells)]) == pytest.approx((1, 1))


def test_where_nothing_is_true_there_is_no_figure() -> None:
    nothing = Instances.empty(SIDE, SIDE)
    assert coco_map([(nothing, nothing)]) is None and coco_map([]) is None
