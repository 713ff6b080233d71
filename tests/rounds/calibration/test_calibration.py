"""Calibration against a brute-force isotonic fit, a known probability, and the promises of its docstrings."""

from __future__ import annotations

import json
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.configs.errors import RunError
from cellsemi.rounds.calibration.calibration import EPS, Calibration, Curve, _isotonic, calibrate
from cellsemi.rounds.calibration.reliability import expected_calibration_error, reliability
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances

SIZE = 100
SPOTS = [(x, y) for x in range(0, SIZE, 5) for y in range(0, SIZE, 5)]


def image(scores, right, class_id=0):
    """Cells on a grid; where `right` is false the truth has none. Returns (predicted, truth)."""
    crops = [(np.ones((4, 4), bool), x, y) for x, y in SPOTS[: len(scores)]]
    predicted = masks.from_crops(SIZE, SIZE, crops, score=scores, class_id=class_id)
    return predicted, predicted.select(np.asarray(right, bool)).with_(score=1.0, state="human")


def sampled(n_images, n, truth_of, seed=0, class_id=0):
    generator = np.random.default_rng(seed)
    out = []
    for _ in range(n_images):
        scores = generator.random(n)
        out.append(image(scores, generator.random(n) < truth_of(scores), class_id))
    return out


def test_a_known_probability_is_found():
    calibration = calibrate(sampled(25, 400, lambda s: s**2), ["cell"], 40)
    curve = calibration.curves["cell"]
    grid = np.linspace(0, 1, 1001)
    # A monotone fit to n samples is off by about (4 p (1 - p) p' / n) ** (1/3) / 2, here .02 (Chernoff).
    assert np.abs(curve(grid) - grid**2).mean() < 0.03
    assert (curve.kind, curve.samples) == ("own", 10_000)
    assert curve.ece_before is not None and curve.ece_before > 0.1
    assert curve.ece_after is not None and curve.ece_after < 0.02


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=40))
@settings(deadline=None)
def test_curves_rise_and_stay_off_zero_and_one(samples):
    score, hit = np.array([s for s, _ in samples]) / 20, np.array([h for _, h in samples])
    x, y = _isotonic(score, hit)
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) >= 0).all()
    n = len(samples)
    assert 1 / (n + 2) - 1e-9 <= y[0] and y[-1] <= (n + 1) / (n + 2) + 1e-9  # Laplace, whatever the steps
    assert min(y) >= EPS and max(y) <= 1 - EPS


def test_steps_are_those_of_the_best_monotone_fit_then_shrunk():
    score = np.arange(6) / 10
    hit = np.array([False, True, False, True, True, True])
    # Brute force over a grid fine enough to hold the optimum (thirds, halves).
    grid = sorted({a / b for b in (1, 2, 3) for a in range(b + 1)})
    best = min(combinations_with_replacement(grid, 6), key=lambda f: sum((f - hit) ** 2))
    assert best == pytest.approx((0, 0.5, 0.5, 1, 1, 1))
    x, y = _isotonic(score, hit)
    assert x == pytest.approx((0, 0.1, 0.2, 0.3, 0.5))
    assert y == pytest.approx((1 / 3, 2 / 4, 2 / 4, 4 / 5, 4 / 5))  # (hits + 1) / (n + 2) of each step


def test_steps_that_shrinking_puts_out_of_order_are_joined():
    # 49 of 50, then 1 of 1: by Laplace 50/52 and 2/3, and so one level for both.
    x, y = _isotonic(np.append(np.full(50, 0.4), 0.8), np.append(np.arange(50) > 0, True))
    assert x == pytest.approx((0.4, 0.8))
    assert y == pytest.approx([(50 * 50 / 52 + 2 / 3) / 51] * 2)


def test_equal_scores_get_one_value():
    x, y = _isotonic(np.full(10, 0.7), np.arange(10) < 6)
    assert (x, y) == ((pytest.approx(0.7),), (pytest.approx(7 / 12),))


def test_few_samples_of_a_class_share_the_pooled_curve():
    many = sampled(4, 100, lambda s: s**3, class_id=0)
    few = sampled(2, 10, lambda s: s**3, class_id=1)
    calibration = calibrate([*many, *few], ["a", "b", "c"], 40)
    assert [c.kind for c in calibration.curves.values()] == ["own", "pooled", "pooled"]
    assert calibration.curves["c"].ece_before is None
    assert "predictions of all classes" in calibration.report()[1]


def test_too_few_samples_in_all_are_scaled_to_the_share_that_is_right():
    few = [image([0.8, 0.4], [True, False]), image([0.8, 0.4], [False, False])]
    calibration = calibrate(few, ["a", "b"], 40)
    assert {c.kind for c in calibration.curves.values()} == {"rate"}
    # Laplace: (1 right + 1) / (4 + 2), over a mean score of .6
    assert calibration.apply(few[0][0]).quality == pytest.approx(np.array([0.8, 0.4]) * (2 / 6) / 0.6)
    assert "scaled to the share" in calibration.report()[0]
    assert calibrate(few[:1], ["a"], 40).curves["a"].kind == "rate"
    assert calibrate([], ["a"], 40).curves["a"].kind == "identity"
    sure = [image([0.5] * 20, [True] * 20), image([0.5] * 20, [True] * 20)]
    assert calibrate(sure, ["a"], 10**6).apply(sure[0][0]).quality.max() <= 1 - EPS


def test_a_teacher_whose_scores_are_good_keeps_them():
    """A curve of few samples is noise: it must predict images left out better than the score does."""
    kept, worse = 0, 0
    for seed in range(20):
        data = sampled(4, 15, lambda s: s, seed)
        curve = calibrate(data, ["cell"], 40).curves["cell"]
        fresh = sampled(20, 100, lambda s: s, 1000 + seed)
        scores = np.concatenate([p.score for p, _ in fresh])
        right = np.concatenate([np.isin(p.rle, t.rle) for p, t in fresh])
        kept += curve.kind == "identity"
        error = expected_calibration_error(reliability(curve(scores), right))
        worse += error > expected_calibration_error(reliability(scores, right)) + 0.1
    assert kept >= 12 and worse <= 2


def test_a_curve_that_is_needed_is_taken():
    curve = calibrate(sampled(10, 40, lambda s: s**4), ["cell"], 40).curves["cell"]
    assert curve.kind == "own" and curve.ece_after < curve.ece_before / 2


def test_below_the_scores_that_were_seen_nothing_is_certain():
    data = [image(np.linspace(0.6, 0.9, 24), [True] * 24) for _ in range(2)]
    curve = calibrate(data, ["cell"], 40).curves["cell"]
    assert curve(np.array([0.6]))[0] > 0.9
    low = curve(np.array([0.0, 0.01, 0.3]))
    assert low[0] == 0 and low[1] < 0.05 and low[2] == pytest.approx(curve(np.array([0.6]))[0] / 2)
    assert (np.diff(curve(np.linspace(0, 1, 101))) >= 0).all()


def test_apply_sets_quality_by_class_and_nothing_else():
    curves = {
        "a": Curve((0.0, 1.0), (0.2, 0.4), 9, 3, "own", None, None),
        "b": Curve((0.5,), (0.9,), 9, 8, "own", None, None),
    }
    cells, _ = image([0.5, 0.5, 1.0], [True] * 3, class_id=[0, 1, 0])
    found = Calibration(curves).apply(cells)
    assert found.quality == pytest.approx([0.3, 0.9, 0.4])
    assert (found.score == cells.score).all()
    assert found.rle == cells.rle
    with pytest.raises(ValueError, match="class_id"):
        Calibration({"a": curves["a"]}).apply(cells)
    assert len(Calibration(curves).apply(Instances.empty(4, 4))) == 0


def test_a_wrong_class_is_not_right():
    predicted, truth = image([0.9] * 50, [True] * 50)
    right = calibrate([(predicted, truth)], ["a", "b"], 40).curves["a"]
    wrong = calibrate([(predicted, truth.with_(class_id=1))], ["a", "b"], 40).curves["a"]
    assert (right.positives, wrong.positives) == (50, 0)


def test_the_error_after_is_of_images_left_out():
    # Scores say nothing: the fit on all images can only look better than it is.
    data = sampled(10, 30, lambda s: np.full(len(s), 0.5), seed=3)
    curve = calibrate(data, ["cell"], 40).curves["cell"]
    inside = expected_calibration_error(
        reliability(
            np.concatenate([curve(p.score) for p, _ in data]),
            np.concatenate([np.isin(p.rle, t.rle) for p, t in data]),
        )
    )
    assert curve.ece_after is not None and curve.ece_after > inside
    assert calibrate(data[:1], ["cell"], 10).curves["cell"].ece_after is None


def test_a_curve_keeps_the_bins_that_its_errors_come_from():
    data = [*sampled(4, 60, lambda s: s**2), *sampled(4, 60, lambda s: s, seed=1, class_id=1)]
    for class_id, curve in enumerate(calibrate(data, ["a", "b", "c"], 40).curves.values()):
        scores = np.concatenate([p.score[p.class_id == class_id] for p, _ in data])
        right = np.concatenate([np.isin(p.rle, t.rle)[p.class_id == class_id] for p, t in data])
        assert curve.before == reliability(scores, right)
        assert sum(found.samples for found in curve.after) == curve.samples == len(scores)
        assert sum(found.samples * found.hit_rate for found in curve.after) == pytest.approx(curve.positives)
        assert curve.ece_before == expected_calibration_error(curve.before)
        assert curve.ece_after == expected_calibration_error(curve.after)
        assert (curve.after == ()) == (class_id == 2) == (curve.ece_after is None)


def test_json_round_trip_in_any_key_order():
    calibration = calibrate(sampled(3, 60, lambda s: s), ["b", "a"], 40)
    text = json.dumps(calibration.to_json(), sort_keys=True)
    again = Calibration.from_json(json.loads(text), ["b", "a"])
    assert again == calibration
    assert list(again.curves) == ["b", "a"]
    with pytest.raises(RunError, match="damaged"):
        Calibration.from_json({"b": {"x": [0]}}, ["b"])
