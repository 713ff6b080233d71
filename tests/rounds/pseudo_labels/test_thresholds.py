"""Limits against a sweep by hand, and the decisions about classes of which little is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.configs.errors import RunError
from cellsemi.configs.rounds import ClassThresholds, FilterConfig
from cellsemi.rounds.cells import masks
from cellsemi.rounds.pseudo_labels.thresholds import ChosenThresholds, Thresholds, choose_thresholds

SIZE = 120
SPOTS = [(x, y) for x in range(0, SIZE, 6) for y in range(0, SIZE, 6)]


def cells(n, side=4, **columns):
    crops = [(np.ones((side, side), bool), x, y) for x, y in SPOTS[:n]]
    return masks.from_crops(SIZE, SIZE, crops, **columns)


def image(quality, right, missed=0, class_id=0):
    """Predictions, and a truth that holds the right ones and `missed` others. Score and quality are equal."""
    everything = cells(len(quality) + missed, class_id=class_id)
    predicted = everything.select(np.arange(len(quality))).with_(score=quality, quality=quality)
    keep = np.append(np.asarray(right, bool), np.ones(missed, bool))
    return predicted, everything.select(keep)


@given(
    st.lists(st.tuples(st.integers(1, 10), st.booleans()), min_size=1, max_size=30),
    st.integers(0, 10),
    st.sampled_from([0.5, 1.0, 2.0]),
)
@settings(max_examples=60, deadline=None)
def test_accept_maximises_f_beta(samples, missed, beta):
    quality, right = np.array([q for q, _ in samples], np.float32) / 10, np.array([r for _, r in samples])
    config = FilterConfig(f_beta=beta, min_precision=0.3, min_samples=1)
    limit = choose_thresholds([image(quality, right, missed)], [], ["cell"], config).by_class["cell"]

    def f_beta(accept):
        kept = quality >= accept
        precision, recall = right[kept].mean(), right[kept].sum() / max(1, right.sum() + missed)
        return 0 if precision + recall == 0 else (1 + beta**2) * precision * recall / (beta**2 * precision + recall)

    candidates = [float(q) for q in np.unique(quality) if q >= 0.3]
    if not candidates:
        assert limit.accept == 0.3
        assert "no validation prediction" in limit.why
    else:
        best = max(map(f_beta, candidates))
        strictest = max(c for c in candidates if f_beta(c) == pytest.approx(best))
        below = max([float(q) for q in quality if q < strictest], default=0.0)
        assert limit.accept == pytest.approx((strictest + max(below, 0.3)) / 2)  # midway to the next, or to the floor
        assert f_beta(np.float32(limit.accept)) == pytest.approx(best)
    assert limit.reject == min(0.1, limit.accept)


def test_the_reason_states_the_figures():
    pair = image([0.9, 0.9, 0.9, 0.9, 0.6], [True, True, True, False, False], missed=2)
    limit = choose_thresholds([pair], [], ["c"], FilterConfig(f_beta=0.5, min_samples=1)).by_class["c"]
    # Precision 3/4, recall 3/5: F = 1.25 * .75 * .6 / (.25 * .75 + .6) = .714
    assert "accepted from 0.75: largest F0.5 (0.71; precision 0.75, recall 0.60) on 5" in limit.why


def test_a_smaller_beta_is_stricter():
    quality = np.linspace(1, 0.5, 50)
    right = (np.arange(50) < 20) | (np.arange(50) % 2 == 1)
    pair = image(quality, right)
    accept = [
        choose_thresholds([pair], [], ["c"], FilterConfig(f_beta=beta)).by_class["c"].accept for beta in (0.3, 3.0)
    ]
    assert accept[0] == pytest.approx((quality[19] + quality[20]) / 2)  # after the last before the errors begin
    assert accept[1] < accept[0]


def test_nothing_below_min_precision_is_accepted():
    pair = image(np.full(50, 0.4), np.ones(50, bool))
    assert choose_thresholds([pair], [], ["c"], FilterConfig(min_precision=0.5)).by_class["c"].accept == 0.5
    low = choose_thresholds([pair], [], ["c"], FilterConfig(min_precision=0.05, reject_below=0.9))
    assert low.by_class["c"].accept == low.by_class["c"].reject == pytest.approx(0.4)  # never reject above accept


def test_classes_with_few_predictions_share_the_accept_limit_of_all():
    many = image(np.linspace(0.6, 1, 100), np.linspace(0.6, 1, 100) > 0.8, class_id=0)
    few = image([0.7, 0.7], [True, True], class_id=1)
    limits = choose_thresholds([many, few], [], ["a", "b"], FilterConfig()).by_class
    assert limits["b"].accept == limits["a"].accept == pytest.approx(0.8, abs=0.01)
    assert "of all classes" in limits["b"].why and "of all classes" not in limits["a"].why


def test_validation_images_of_another_size_and_none_at_all():
    assert choose_thresholds([], [], ["c"], FilterConfig()).by_class["c"] == ChosenThresholds(
        0.5,
        0.1,
        0,
        None,
        "accepted from 0.50 (min_precision): no validation prediction of all classes is as confident; "
        "rejected below 0.10; any area: there are no labelled cells",
    )


def test_areas_are_widened_quantiles_of_the_labelled_cells():
    labelled = [cells(60, side=4), cells(40, side=5)]
    config = FilterConfig(areas="always", area_quantile=0.0, area_slack=2.0)
    limit = choose_thresholds([], labelled, ["c"], config).by_class["c"]
    assert (limit.min_area_px, limit.max_area_px) == (8, 50)
    narrow = choose_thresholds(
        [], labelled, ["c"], FilterConfig(areas="always", area_quantile=0.45, area_slack=1.0)
    ).by_class["c"]
    assert (narrow.min_area_px, narrow.max_area_px) == (16, 16)
    assert "100 labelled cells" in limit.why


def test_a_rare_class_takes_the_wider_of_its_own_and_the_common_areas():
    common = [cells(400, side=2, class_id=0)]
    rare = [cells(3, side=5, class_id=1)]
    config = FilterConfig(areas="always", area_quantile=0.0, area_slack=1.0)
    limits = choose_thresholds([], common + rare, ["a", "b", "c"], config).by_class
    assert (limits["a"].min_area_px, limits["a"].max_area_px) == (4, 4)
    assert (limits["b"].min_area_px, limits["b"].max_area_px) == (4, 25)
    assert (limits["c"].min_area_px, limits["c"].max_area_px) == (4, 25)  # never labelled: those of all
    # The quantile of all classes alone would have cut the rare one off.
    cut = choose_thresholds(
        [], common + rare, ["a", "b"], FilterConfig(areas="always", area_quantile=0.1, area_slack=1.0)
    ).by_class
    assert cut["b"].max_area_px == 25


def specks(n_cells, n_specks, large=0):
    """`n_cells` right cells of 16 px, `n_specks` wrong specks of 4 px and `large` wrong clumps of 36 px."""
    sides = [4] * n_cells + [2] * n_specks + [6] * large
    crops = [(np.ones((side, side), bool), x, y) for side, (x, y) in zip(sides, SPOTS, strict=False)]
    everything = masks.from_crops(SIZE, SIZE, crops, score=0.8, quality=0.8)
    return everything, everything.select(np.arange(n_cells))


AREAS = {"area_quantile": 0.0, "area_slack": 1.5, "min_samples": 1}


@pytest.mark.parametrize(
    ("pair", "kept", "sentence"),
    [
        (specks(8, 0), (0, None), "any area: F0.5 1.000 with no area limit, 1.000 with at least 10 px, 1.000 with"),
        (specks(8, 4), (10, None), "area at least 10 px: F0.5 0.714 with no area limit, 1.000 with at least 10 px, 0"),
        (specks(8, 0, 4), (0, 24), "area at most 24 px: F0.5 0.714 with no area limit, 0.714 with at least 10 px, 1"),
        (specks(8, 4, 2), (10, 24), "area 10 to 24 px: F0.5 0.625 with no area limit, "),
    ],
)
def test_an_area_limit_stays_only_where_it_raises_the_objective(pair, kept, sentence):
    config = FilterConfig(areas="if-better", **AREAS)
    limit = choose_thresholds([pair], [pair[1]], ["c"], config).by_class["c"]
    assert (limit.min_area_px, limit.max_area_px) == kept
    assert sentence in limit.why
    assert limit.why.endswith("with 10 to 24 px (from 8 labelled cells)")


@pytest.mark.parametrize("pair", [specks(8, 4, 2), specks(8, 0)])
def test_areas_always_and_never_ask_nothing(pair):
    always, never = (
        choose_thresholds([pair], [pair[1]], ["c"], FilterConfig(areas=areas, **AREAS)).by_class["c"]
        for areas in ("always", "never")
    )
    assert (always.min_area_px, always.max_area_px) == (10, 24)
    assert (never.min_area_px, never.max_area_px) == (0, None)
    assert "precision 1.00, recall 1.00" in always.why  # of what fits
    assert never.why.endswith("; any area (filter.areas: never)")


def test_a_thin_class_tries_its_areas_on_the_predictions_of_all():
    config = FilterConfig(areas="if-better", **(AREAS | {"min_samples": 10}))
    pair = specks(8, 4)
    limits = choose_thresholds([pair], [pair[1]], ["a", "rare"], config).by_class
    assert limits["rare"].min_area_px == limits["a"].min_area_px == 10
    assert limits["rare"].accept == limits["a"].accept
    assert "12 validation predictions of all classes" in limits["rare"].why


def test_the_reason_names_the_objective():
    pair = image([0.9, 0.6], [True, False])
    limit = choose_thresholds([pair], [], ["c"], FilterConfig(objective="map", min_samples=1)).by_class["c"]
    assert "accepted from 0.75: largest mAP (1.00; precision 1.00, recall 1.00) on 2" in limit.why


def test_the_reason_tells_how_many_cells_an_automatic_rejection_keeps():
    pair = image([0.9, 0.8, 0.7, 0.6], [True, True, False, False])
    auto, fixed = (
        choose_thresholds([pair], [], ["c"], FilterConfig(min_samples=1, reject_below=below)).by_class["c"].why
        for below in ("auto", 0.1)
    )
    assert "; rejected below 0.80, from where 2 cells are kept for 2 labelled ones; any" in auto
    assert "; rejected below 0.10; any" in fixed


def test_auto_rejects_nothing_without_predictions():
    limit = choose_thresholds([], [], ["c"], FilterConfig(reject_below="auto")).by_class["c"]
    assert limit.reject == 0.0
    assert "none rejected: there is no validation prediction to choose the threshold on" in limit.why


def test_fixed_limits_are_taken_as_they_are():
    fixed = {
        "a": ClassThresholds(accept=0.7, reject=0.2, min_area_px=5, max_area_px=90),
        "b": ClassThresholds(accept=0.4, reject=0.4),
    }
    limits = choose_thresholds([], [], ["b", "a"], FilterConfig(thresholds=fixed))
    assert list(limits.by_class) == ["b", "a"]
    assert limits.by_class["a"] == ChosenThresholds(0.7, 0.2, 5, 90, "fixed by filter.thresholds in the config")
    assert limits.by_class["b"].max_area_px is None


def test_json_round_trip():
    limits = choose_thresholds([image([0.8], [True])], [cells(50)], ["b", "a"], FilterConfig())
    text = json.dumps(limits.to_json(), sort_keys=True)
    assert Thresholds.from_json(json.loads(text), ["b", "a"]) == limits
    assert limits.report()[0].startswith("b: accepted from")
    with pytest.raises(RunError, match="damaged"):
        Thresholds.from_json({"a": {"accept": 1}}, ["a"])
