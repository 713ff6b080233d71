"""Matching and metrics against slow loops over full bitmaps, and against squares whose IoU is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.matching_reference import sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import gains, gains_of, hits, match, overlap
from cellsemi.rounds.evaluation.bootstrap import bootstrap_interval, paired_probability
from cellsemi.rounds.evaluation.metrics import (
    ImageScore,
    best_threshold,
    class_differences,
    image_values,
    paired_values,
    score_image,
    summarise,
)


def squares(*corners, side=10, size=60, **columns):
    """Square masks with their upper left corners at (x, y)."""
    crops = [(np.ones((side, side), bool), x, y) for x, y in corners]
    return masks.from_crops(size, size, crops, **columns)


def from_bitmaps(bitmaps, **columns):
    height, width = bitmaps[0].shape if bitmaps else (6, 6)
    return masks.from_crops(height, width, [(b, 0, 0) for b in bitmaps], **columns)


# --- the slow reference: pixels and loops, nothing of ours --------------------------------------------


def slow_matching_size(allowed, rows, columns):
    """Largest one-to-one matching, by trying everything."""
    if not columns:
        return 0
    first, rest = columns[0], columns[1:]
    best = slow_matching_size(allowed, rows, rest)
    for row in rows:
        if allowed[row][first]:
            best = max(best, 1 + slow_matching_size(allowed, [r for r in rows if r != row], rest))
    return best


def slow_ap(truth, predicted):
    """The metric of one image on lists of full bitmaps, IoU compared as whole numbers."""
    if not truth and not predicted:
        return 1.0
    total = 0.0
    for percent in range(50, 100, 5):
        allowed = []
        for t in truth:
            row = []
            for p in predicted:
                inter = union = 0
                for y, x in itertools.product(range(t.shape[0]), range(t.shape[1])):
                    inter += bool(t[y, x] and p[y, x])
                    union += bool(t[y, x] or p[y, x])
                row.append(100 * inter > percent * union)
            allowed.append(row)
        tp = slow_matching_size(allowed, list(range(len(truth))), list(range(len(predicted))))
        total += tp / (len(truth) + len(predicted) - tp)
    return total / 10


bitmaps = st.lists(hnp.arrays(bool, (5, 5), elements=st.sampled_from([True, True, False])).filter(np.any), max_size=4)
label_maps = hnp.arrays(np.int32, (7, 8), elements=st.integers(0, 4))


@given(truth=bitmaps, predicted=bitmaps)
@settings(max_examples=60, deadline=None)
def test_overlapping_masks_equal_the_slow_reference(truth, predicted):
    found = score_image(
        "i", from_bitmaps(truth) if truth else Instances.empty(5, 5), from_bitmaps(predicted)
        if predicted else Instances.empty(5, 5)
    )  # fmt: skip
    assert found.total.ap == pytest.approx(slow_ap(truth, predicted), abs=1e-12)
    assert found.total.tp50 + found.total.fn50 == len(truth)
    assert found.total.tp50 + found.total.fp50 == len(predicted)


@given(truth=label_maps, noise=hnp.arrays(np.int32, (7, 8), elements=st.sampled_from([0, 0, 0, 0, 5, 1])))
@settings(max_examples=60, deadline=None)
def test_label_maps_equal_the_slow_reference(truth, noise):
    guess = np.where(noise > 0, noise, truth)
    expected = slow_ap([truth == v for v in np.unique(truth) if v], [guess == v for v in np.unique(guess) if v])
    found = score_image("i", masks.from_label_map(truth), masks.from_label_map(guess))
    assert found.total.ap == pytest.approx(expected, abs=1e-12)


@given(hnp.arrays(bool, st.tuples(st.integers(0, 5), st.integers(0, 5))))
@settings(deadline=None)
def test_gains_are_the_growth_of_the_largest_matching(allowed):
    rows = list(range(allowed.shape[0]))
    sizes = [slow_matching_size(allowed, rows, list(range(k))) for k in range(allowed.shape[1] + 1)]
    found = gains(*np.nonzero(allowed), allowed[allowed].astype(np.int64), allowed.shape, thresholds=1)
    assert found[:, 0].tolist() == (np.diff(sizes) > 0).tolist()


@given(st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_match_is_largest_and_then_best(seed):
    generator = np.random.default_rng(seed)
    union = np.full((4, 4), 100)
    inter = generator.choice([0, 40, 55, 70, 90], (4, 4))
    rows, columns = match(sparse(inter, union))
    best = max(
        sum((inter[r, c] > 50) * (1000 + inter[r, c]) for r, c in enumerate(order))
        for order in itertools.permutations(range(4))
    )
    assert len(set(rows.tolist())) == len(rows) == len(set(columns.tolist()))
    assert int((1000 + inter[rows, columns]).sum()) == best


# --- known answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "passed"),
    [(0, 10), (1, 7), (2, 4), (3, 1), (4, 0)],  # IoU 1, 9/11, 8/12, 7/13, 6/14
)
def test_shifted_squares_have_the_iou_of_the_textbook(shift, passed):
    truth, guess = squares((10, 10)), squares((10 + shift, 10))
    found = score_image("i", truth, guess).total
    assert found.ap == pytest.approx(passed / 10)
    assert overlap(truth, guess).iou[0] == pytest.approx((10 - shift) / (10 + shift))
    assert found.mean_iou == pytest.approx((10 - shift) / (10 + shift) if passed else 0.0)


@pytest.mark.parametrize("twentieths", range(10, 20))
def test_an_iou_on_the_threshold_does_not_pass(twentieths):
    truth = masks.from_crops(8, 40, [(np.ones((1, 20), bool), 0, 0)])
    on, beyond = (masks.from_crops(8, 40, [(np.ones((1, n), bool), 0, 0)]) for n in (twentieths, twentieths + 1))
    assert sum(score_image("i", truth, on).total.tp) == twentieths - 10
    assert sum(score_image("i", truth, beyond).total.tp) == twentieths - 9


def test_a_perfect_prediction_scores_one_beyond_a_hundred_cells():
    corners = [(x, y) for x in range(0, 400, 10) for y in range(0, 200, 10)]
    cells = squares(*corners, side=8, size=400)
    assert len(cells) == 800
    found = score_image("i", cells, cells)
    assert found.total.ap == 1.0
    assert found.total.tp == (800,) * 10
    half = score_image("i", cells, cells.select(np.arange(400)))
    assert half.total.ap == pytest.approx(0.5)


def test_empty_images():
    none, some = Instances.empty(60, 60), squares((5, 5))
    assert score_image("i", none, none).total.ap == 1.0
    assert score_image("i", none, some).total.ap == 0.0
    assert score_image("i", some, none).total.ap == 0.0
    assert score_image("i", none, none).by_class == {}


def test_one_mask_on_two_predictions_counts_once():
    found = score_image("i", squares((10, 10)), squares((10, 10), (11, 10))).total
    assert (found.tp50, found.fp50, found.fn50) == (1, 1, 0)
    assert found.mean_iou == 1.0


def test_the_largest_matching_is_found_where_greedy_is_not():
    # Prediction a overlaps both cells, b only the first; greedy by IoU gives a the first and b nothing.
    found = sparse(np.array([[90, 60], [60, 0]]), np.full((2, 2), 100))
    assert gains_of(found, thresholds=1).sum() == 2
    rows, columns = match(found)
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]


def test_more_matches_come_before_a_larger_total_iou():
    # Three weak pairs (1.65 in all) against two strong ones (1.8) that block the third.
    inter = np.array([[55, 0, 0], [90, 55, 0], [0, 90, 55]])
    rows, columns = match(sparse(inter, np.full((3, 3), 100)))
    assert sorted(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 0), (1, 1), (2, 2)]


def test_areas_that_are_not_those_of_the_masks_are_refused():
    cells = squares((10, 10))
    with pytest.raises(ValueError, match="area"):
        overlap(cells, squares((13, 10)).with_(area=37))


def test_classes_are_scored_within_and_images_without_a_class_do_not_count():
    truth = squares((0, 0), (20, 0), class_id=[0, 1])
    guess = squares((0, 0), (20, 0), class_id=[0, 0])
    found = score_image("a", truth, guess)
    assert found.total.ap == 1.0  # class-agnostic, as Kaggle has it
    assert found.by_class[0].ap == 0.5
    assert found.by_class[1].ap == 0.0
    other = score_image("b", squares((0, 0)), squares((0, 0)))
    summary = summarise([found, other], ["x", "y", "z"])
    assert summary.class_map == {"x": 0.75, "y": 0.0, "z": None}


def test_summary_counts_cells_over_images():
    scores = [
        score_image("a", squares((0, 0), (20, 0), (40, 0)), squares((0, 0))),
        score_image("b", squares((0, 0)), squares((2, 0), (30, 30))),
    ]
    found = summarise(scores, ["cell"])
    assert (found.images, found.precision, found.recall) == (2, pytest.approx(2 / 3), 0.5)
    assert found.f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 2))
    assert found.mean_iou == pytest.approx((1 + 8 / 12) / 2)
    assert found.map == pytest.approx((1 / 3 + 0.5 * 0.4) / 2)


def test_summary_of_nothing():
    empty = Instances.empty(60, 60)
    nothing = summarise([score_image("a", empty, empty)], ["cell"])
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.mean_iou) == (1, 1, 1, 0)
    missed = summarise([score_image("a", squares((0, 0)), empty)], ["cell"])
    assert (missed.precision, missed.recall, missed.f1) == (0, 0, 0)
    with pytest.raises(ValueError, match="at least one"):
        summarise([], ["cell"])


def test_hits_count_a_cell_once_and_only_within_its_class():
    truth = squares((0, 0), (30, 0), class_id=[0, 1])
    guess = squares((1, 0), (0, 0), (30, 0), score=[0.9, 0.8, 0.7], class_id=[0, 0, 0])
    assert hits(guess, truth).tolist() == [True, False, False]
    assert hits(guess.with_(class_id=[0, 0, 1]), truth).tolist() == [True, False, True]


# --- bootstrap ----------------------------------------------------------------------------------------


def test_bootstrap_interval_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).normal(0.5, 0.2, 400)
    low, high = bootstrap_interval(values, 4000, 0.95, seed=1)
    width = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - width, abs=0.002)
    assert high == pytest.approx(values.mean() + width, abs=0.002)
    assert (low, high) == bootstrap_interval(values, 4000, 0.95, seed=1)
    assert (low, high) != bootstrap_interval(values, 4000, 0.95, seed=2)


def test_bootstrap_in_chunks_covers_every_sample(monkeypatch):
    monkeypatch.setattr("cellsemi.rounds.evaluation.bootstrap.CHUNK", 7)
    assert bootstrap_interval([0.25] * 5, 100, 0.95, seed=0) == (0.25, 0.25)
    assert paired_probability([0.1, 0.3], [0.3, 0.1], 4001, seed=0) == pytest.approx(0.5, abs=0.03)


def test_paired_probability_of_a_known_case():
    # Two images, differences +2 and -1: the mean is positive unless both draws are the second image.
    assert paired_probability([2, 0], [0, 1], 20_000, seed=3) == pytest.approx(0.75, abs=0.01)
    # Differences that cancel: a quarter each way, half ties.
    assert paired_probability([0.3, 0.1], [0.1, 0.3], 20_000, seed=3) == pytest.approx(0.5, abs=0.01)
    assert paired_probability([0.1, 0.2], [0.1, 0.2], 100, seed=0) == 0.5


@pytest.mark.parametrize("values", [[], [[0.1, 0.2]]])
def test_bootstrap_refuses_what_is_not_one_value_per_image(values):
    with pytest.raises(ValueError, match="one value per image"):
        bootstrap_interval(values, 100, 0.95, seed=0)


def test_pairing_refuses_other_images():
    cells = squares((0, 0))
    a, b = score_image("a", cells, cells), score_image("b", cells, cells)
    with pytest.raises(ValueError, match="same images"):
        paired_values([a], [b])
    with pytest.raises(ValueError, match="two values"):
        paired_probability([1.0], [1.0, 2.0], 100, 0)


def test_class_differences_count_the_images_whose_truth_holds_the_class():
    truth = squares((0, 0), class_id=0)
    right = score_image("a", truth, truth)
    inventive = score_image("a", truth, squares((0, 0), (30, 0), class_id=[0, 1]))
    blind = score_image("a", truth, Instances.empty(60, 60))
    assert class_differences([inventive], [right], 1).tolist() == []
    assert class_differences([right], [inventive], 0).tolist() == [0.0]
    assert class_differences([blind], [right], 0).tolist() == [-1.0]
    assert class_differences([right], [blind], 0).tolist() == [1.0]


# --- the threshold ------------------------------------------------------------------------------------


def random_image(seed):
    generator = np.random.default_rng(seed)
    truth = squares(*generator.integers(0, 40, (5, 2)).tolist(), size=60)
    guesses = np.concatenate(
        [truth.bbox[:4, :2] + generator.integers(-3, 4, (4, 2)), generator.integers(0, 40, (4, 2))]
    )
    scores = generator.integers(1, 8, 8) / 8
    return squares(*np.clip(guesses, 0, 50).tolist(), size=60, score=scores), truth


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_best_threshold_is_that_of_scoring_at_every_score(seed):
    pairs = [random_image(seed), random_image(seed + 1), (Instances.empty(60, 60), Instances.empty(60, 60))]
    by_hand = {
        float(t): image_values([score_image("i", truth, guess, t) for guess, truth in pairs]).mean()
        for t in np.unique(np.concatenate([guess.score for guess, _ in pairs]))
    }
    found = best_threshold(pairs)
    assert found.map == pytest.approx(max(by_hand.values()), abs=1e-12)
    assert by_hand[found.value] == pytest.approx(found.map, abs=1e-12)


def test_best_threshold_drops_the_noise():
    truth = squares((0, 0), (20, 0))
    guess = squares((0, 0), (20, 0), (40, 40), score=[0.9, 0.6, 0.3])
    found = best_threshold([(guess, truth)])
    assert (found.value, found.map) == (pytest.approx(0.6), 1.0)
    assert score_image("i", truth, guess, found.value).total.ap == 1.0


def test_best_threshold_without_predictions_or_images():
    nothing = Instances.empty(60, 60)
    assert best_threshold([(nothing, squares((0, 0)))]).map == 0.0
    assert best_threshold([(nothing, nothing)]).map == 1.0
    with pytest.raises(ValueError, match="at least one image"):
        best_threshold([])


def test_best_threshold_with_few_candidates_spans_the_scores():
    corners = [(x, y) for x in range(0, 60, 10) for y in range(0, 60, 10)]
    scores = np.linspace(0.1, 0.9, len(corners))
    guess = squares(*corners, score=scores)
    found = best_threshold([(guess, guess.select(scores > 0.85))], max_candidates=2)
    assert found.value == pytest.approx(0.9)  # the first and the last score only
    assert isinstance(score_image("i", guess, guess, found.value), ImageScore)
