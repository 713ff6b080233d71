"""Overlaps and matchings pair by pair give exactly what tables of all pairs give."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import matching_reference as reference
from helpers import rle_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import gains, gains_of, hits, match, overlap
from cellsemi.rounds.evaluation.metrics import score_image, scores_from
from cellsemi.rounds.pseudo_labels.quality import best_iou

SHAPE = (6, 7)
BITMAPS = st.lists(hnp.arrays(bool, SHAPE, elements=st.sampled_from([True, True, False])).filter(np.any), max_size=5)


def cells(found: list[Any], seed: int) -> Instances:
    generator = np.random.default_rng(seed)
    columns = {"score": generator.integers(1, 5, len(found)) / 5, "class_id": generator.integers(0, 2, len(found))}
    return masks.from_crops(*SHAPE, [(mask, 0, 0) for mask in found], **columns)


@given(BITMAPS, BITMAPS, st.integers(0, 99))
@settings(max_examples=150)
def test_overlaps_matchings_and_scores(first: list[Any], second: list[Any], seed: int) -> None:
    shared, union = reference.tables(first, second)
    truth, predicted = cells(first, seed), cells(second, seed + 1)
    found = overlap(truth, predicted)
    assert found.shape == shared.shape
    expected = reference.sparse(shared, union)
    for name in ("rows", "columns", "shared", "union"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    for twentieths in (0, 6, 10, 15, 19):
        assert [a.tolist() for a in match(found, twentieths)] == [
            a.tolist() for a in reference.match(shared, union, twentieths)
        ]
    assert np.array_equal(hits(predicted, truth), reference.hits(predicted, truth, shared, union))
    score = score_image("i", truth, predicted)
    assert (score.total.tp, score.total.mean_iou) == reference.tally(shared, union)
    for c, tally in score.by_class.items():
        part = np.ix_(truth.class_id == c, predicted.class_id == c)
        assert (tally.tp, tally.mean_iou) == reference.tally(shared[part], union[part])


@given(BITMAPS, BITMAPS, st.integers(0, 99))
def test_scores_at_all_limits_are_those_at_each(first: list[Any], second: list[Any], seed: int) -> None:
    truth, predicted = cells(first, seed), cells(second, seed + 1)
    limits = [0.0, 0.1, 0.2, float(np.float32(0.4)), 0.6, 1.0]
    each = [score_image("i", truth, predicted, limit).total.ap for limit in limits]
    assert scores_from(truth, predicted, limits) == each


@given(BITMAPS, BITMAPS, st.integers(0, 99))
def test_the_nearest_mask(first: list[Any], second: list[Any], seed: int) -> None:
    shared, union = reference.tables(first, second)
    iou = shared / np.maximum(union, 1)
    truth, predicted = cells(first, seed), cells(second, seed + 1)
    found = overlap(truth, predicted)
    nearest, best = found.best()
    assert best.tolist() == iou.max(axis=1, initial=0.0).tolist()
    if len(predicted):
        assert nearest.tolist() == np.where(best > 0, iou.argmax(axis=1), -1).tolist()
    assert found.turned().best()[1].tolist() == iou.max(axis=0, initial=0.0).tolist()
    same = truth.class_id[:, None] == predicted.class_id[None, :]
    assert best_iou(truth, predicted).tolist() == np.where(same, iou, 0.0).max(axis=1, initial=0.0).tolist()


@given(BITMAPS, BITMAPS, st.data())
def test_parts_are_those_of_the_table(first: list[Any], second: list[Any], data: Any) -> None:
    shared, union = reference.tables(first, second)
    rows = data.draw(hnp.arrays(bool, len(first)))
    columns = np.array(data.draw(st.permutations(range(len(second)))), np.int64)[: data.draw(st.integers(0, 5))]
    found = overlap(cells(first, 0), cells(second, 1)).part(rows, columns)
    expected = reference.sparse(shared[rows][:, columns], union[rows][:, columns])
    assert found.shape == expected.shape
    for name in ("rows", "columns", "shared", "union"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


@given(hnp.arrays(np.int64, st.tuples(st.integers(0, 6), st.integers(0, 6)), elements=st.integers(0, 3)))
def test_gains_at_each_threshold(level: Any) -> None:
    rows, columns = np.nonzero(level)
    found = gains(rows, columns, level[rows, columns], level.shape, thresholds=3)
    for k in range(3):
        assert np.array_equal(found[:, k], reference.gains(level > k))


@given(st.integers(0, 10_000))
@settings(max_examples=25)
def test_many_boxes_of_all_sizes(seed: int) -> None:
    """Small and large masks far apart and on each other: more tiles than one, pairs in more of them than one."""
    generator = np.random.default_rng(seed)
    height, width = generator.integers(40, 120, 2).tolist()
    made = []
    for _ in range(2):
        found = []
        for _ in range(generator.integers(0, 25)):
            y, x = generator.integers(0, height), generator.integers(0, width)
            h, w = np.minimum(generator.choice([1, 2, 5, 12, 60], 2), (height - y, width - x)).tolist()
            mask = np.zeros((height, width), bool)
            mask[y : y + h, x : x + w] = generator.random((h, w)) < 0.8
            mask[y, x] = True
            found.append(mask)
        made.append(found)
    shared, union = reference.tables(*made)
    a, b = (masks.from_crops(height, width, [(mask, 0, 0) for mask in found]) for found in made)
    found, expected = overlap(a, b), reference.sparse(shared, union)
    assert np.array_equal(found.rows, expected.rows) and np.array_equal(found.columns, expected.columns)
    assert np.array_equal(found.shared, expected.shared)
    assert np.array_equal(
        found.level, sum((20 * expected.shared > t * expected.union).astype(int) for t in range(10, 20))
    )
    assert np.array_equal(gains_of(found)[:, 0], reference.gains(2 * shared > union))


def label_maps(dtype: Any) -> Any:
    return hnp.arrays(dtype, st.tuples(st.integers(0, 40), st.integers(0, 40)), elements=st.integers(0, 4))


@given(st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]).flatmap(label_maps), st.sampled_from([0, 1]))
def test_cells_of_a_label_map(labels: Any, order: int) -> None:
    labels = np.asarray(labels, order="CF"[order])
    found = masks.from_label_map(labels)
    values = [value for value in np.unique(labels) if value]
    assert found.rle == tuple(rle_reference.encode(np.ascontiguousarray(labels == value)) for value in values)
    assert found.area.tolist() == [int((labels == value).sum()) for value in values]
    for value, box in zip(values, found.bbox.tolist(), strict=True):
        y, x = np.nonzero(labels == value)
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]


@given(hnp.arrays(np.int64, (4, 5), elements=st.sampled_from([-(2**40), -1, 0, 7, 2**40])))
def test_cells_of_a_label_map_with_any_values(labels: Any) -> None:
    values = [value for value in np.unique(labels) if value]
    encoded = [rle_reference.encode(labels == value) for value in values]
    assert masks.from_label_map(labels).rle == tuple(encoded)


@given(BITMAPS, st.permutations(range(5)))
def test_overlaps_are_resolved_as_on_the_label_map(found: list[Any], order: list[int]) -> None:
    order = [i for i in order if i < len(found)]
    drawn = rle_reference.label_map(found, order, *SHAPE)
    made = cells(found, 0)
    resolved, lost = masks.without_overlaps(made, np.array(order, np.int64))
    left = [i for i in range(len(found)) if (drawn == i + 1).any()]
    assert resolved.rle == tuple(rle_reference.encode(drawn == i + 1) for i in left)
    assert lost.tolist() == [int(mask.sum() - (drawn == i + 1).sum()) for i, mask in enumerate(found)]
    assert np.array_equal(resolved.class_id, made.class_id[left])
