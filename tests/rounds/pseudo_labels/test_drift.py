"""Drift: the distance of sizes against scipy, what a profile counts, and which change raises which alarm."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cellsemi.rounds.calibration.calibration import Calibration, Curve
from cellsemi.rounds.cells.instances import Instances, State
from cellsemi.rounds.pseudo_labels import drift
from cellsemi.rounds.pseudo_labels.drift import (
    COLUMNS,
    Areas,
    Profile,
    alarms,
    calibration_alarms,
    profile,
    size_distance,
)

CLASSES = ("round", "long")
AREAS = st.lists(st.integers(1, 30), min_size=1, max_size=30)
HUMAN = "the human labels"


def image(areas: list[int], class_id: list[int], state: State | list[State] = "human") -> Instances:
    """Cells of stated area; their masks are not read."""
    n = len(areas)
    return Instances.build(
        50, 60, [b"00"] * n, np.zeros((n, 4)), np.array(areas), class_id=np.array(class_id), state=state
    )


def columns(*images: Instances) -> tuple[int, pa.Table]:
    """A shard of images, as a profile reads it."""
    rows = [
        dict(zip(COLUMNS, row, strict=True))
        for cells in images
        for row in zip(cells.class_id.tolist(), cells.area.tolist(), cells.state, strict=True)
    ]
    kinds = pa.schema([("class_id", pa.int32()), ("area", pa.int64()), ("state", pa.string())])
    return len(images), pa.Table.from_pylist(rows, schema=kinds)


def made(
    images: int = 10,
    filtered: int = 0,
    ece: dict[str, float] | None = None,
    ignored: int = 0,
    **areas: np.ndarray,
) -> Profile:
    held = {name: Areas.of(np.asarray(areas.get(name, []), np.int64)) for name in CLASSES}
    return Profile(images, filtered, held, ece or {}, ignored)


def sizes(n: int, low: int = 100, high: int = 200) -> np.ndarray:
    return np.linspace(low, high, n).astype(np.int64)


@settings(deadline=None, max_examples=100)
@given(AREAS, st.lists(st.integers(1, 30), min_size=2, max_size=30))
def test_the_distance_of_sizes_is_that_of_kolmogorov_and_smirnov(a: list[int], b: list[int]) -> None:
    expected = stats.ks_2samp(a, b, method="asymp").statistic
    assert size_distance(Areas.of(np.array(a)), Areas.of(np.array(b))) == pytest.approx(expected)


@settings(deadline=None, max_examples=100)
@given(st.lists(AREAS, min_size=1, max_size=4), st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_counted_areas_have_the_quantiles_of_the_list(parts: list[list[int]], shares: list[float]) -> None:
    whole = Areas.sum([Areas.of(np.array(part)) for part in parts])
    listed = [area for part in parts for area in part]
    assert len(whole) == len(listed)
    assert whole.quantiles(shares) == pytest.approx(np.quantile(listed, shares).tolist(), rel=1e-12)


def test_the_distance_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 and 3"):
        size_distance(Areas.of(np.zeros(0, np.int64)), Areas.of(np.array([1, 2, 3])))


def test_the_noise_limit_is_crossed_about_once_in_a_thousand() -> None:
    n, m = 2000, 3000
    value = drift.SIZE_NOISE * np.sqrt((n + m) / (n * m))
    assert stats.kstwo.sf(value, n * m / (n + m)) == pytest.approx(0.001, rel=0.15)


def test_a_profile_counts_human_cells_and_not_those_to_be_ignored() -> None:
    found = profile(
        [columns(image([9, 4, 7], [0, 1, 1], ["human", "human", "ignored"])), columns(image([], []))], CLASSES
    )
    assert (found.images, found.cells, found.cells_per_image, found.filtered) == (2, 2, 1.0, 0)
    assert found.accepted_share is None
    assert {name: areas.values.tolist() for name, areas in found.areas.items()} == {"round": [9], "long": [4]}


def test_a_profile_of_screened_cells_knows_the_accepted_share_and_the_errors_of_own_curves() -> None:
    own = Curve((0.0,), (0.5,), 90, 45, "own", 0.3, 0.2)
    pooled = Curve((0.0,), (0.5,), 3, 1, "pooled", 0.3, 0.4)
    cells = image([9, 4, 7, 8], [0, 1, 1, 0], ["accepted", "ignored", "rejected", "accepted"])
    found = profile([columns(cells)], CLASSES, Calibration({"round": own, "long": pooled}))
    assert found.accepted_share == 0.5 and found.share("round") == 1.0
    assert (found.filtered, found.ignored, found.not_background_per_image) == (4, 1, 3.0)
    assert found.ece == {"round": 0.2}


def test_a_profile_is_plain_json() -> None:
    content = json.loads(json.dumps(made(2, 6, {"round": 0.1}, round=sizes(3, 1, 3)).to_json()))
    assert content["cells_per_image"] == content["not_background_per_image"] == 1.5 and content["accepted_share"] == 0.5
    assert content["classes"]["round"]["area_quantiles_px"] == np.quantile([1, 2, 3], drift.QUANTILES).tolist()
    assert content["classes"]["long"] == {"cells": 0, "share": 0.0, "area_quantiles_px": None, "ece": None}


def test_the_same_cells_raise_no_alarm() -> None:
    one = made(filtered=100, ece={"round": 0.1}, round=sizes(60), long=sizes(20))
    assert alarms(one, one, HUMAN) == calibration_alarms(one, one) == []


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (made(4, round=sizes(60), long=sizes(20)), "20.0 accepted cells per image, the human labels hold 8.0"),
        (made(40, round=sizes(60), long=sizes(20)), "2.0 accepted cells per image"),
        (made(round=sizes(60, 150, 250), long=sizes(20)), "round: half of the accepted cells have less than 200 px"),
        (made(round=sizes(40), long=sizes(40)), "long: 50% of the accepted cells, in the human labels 25%"),
        (made(round=sizes(80)), "long: none was accepted, in the human labels it is 25% of the cells"),
        (made(), "no cell was accepted; the human labels hold 8.0 per image"),
    ],
)
def test_what_changed_is_said_with_both_figures(now: Profile, words: str) -> None:
    reference = made(round=sizes(60), long=sizes(20))
    assert any(sentence.startswith(words) for sentence in alarms(now, reference, HUMAN))


def test_a_change_at_the_limit_is_no_alarm() -> None:
    reference = made(12, round=sizes(60), long=sizes(20))
    assert alarms(made(8, round=sizes(60), long=sizes(20)), reference, HUMAN) == []
    assert alarms(made(18, round=sizes(60), long=sizes(20)), reference, HUMAN) == []


@pytest.mark.parametrize(
    ("accepted", "ignored", "expected"),
    [
        (10, 0, []),
        (5, 5, ["5.0 accepted cells"]),  # the rest is unsure, and not taught as background
        (5, 1, ["5.0 accepted cells", "6.0 accepted or ignored cells"]),  # four of ten are taught as background
        (10, 6, ["16.0 accepted or ignored cells"]),  # as many again as people would draw
        (16, 0, ["16.0 accepted cells"]),
    ],
)
def test_accepted_and_ignored_cells_are_counted_against_the_labelled_ones(
    accepted: int, ignored: int, expected: list[str]
) -> None:
    """Per image of 10 labelled cells; beyond 15 and below 6.7 it is said."""
    now = made(10, 200, ignored=10 * ignored, round=sizes(10 * accepted))
    found = alarms(now, made(5, round=sizes(50)), HUMAN)
    assert found == [f"{words} per image, {HUMAN} hold 10.0: more than a factor of 1.5" for words in expected]


def test_few_cells_of_another_size_may_be_chance() -> None:
    other = sizes(4, 150, 250)
    assert alarms(made(1, round=other), made(1, round=sizes(4)), HUMAN) == []
    assert size_distance(Areas.of(other), Areas.of(sizes(4))) > drift.SIZE_DISTANCE


def test_an_accepted_share_that_jumps_is_said_against_the_round_before_only() -> None:
    now, before = (made(filtered=n, round=sizes(60)) for n in (60, 100))
    assert any("100% of the cells are accepted, in them 60%" in s for s in alarms(now, before, "them"))
    assert alarms(now, made(round=sizes(60)), HUMAN) == []


def test_without_images_there_is_nothing_to_compare() -> None:
    some = made(round=sizes(60))
    assert alarms(made(0), some, HUMAN) == alarms(some, made(0), HUMAN) == []


def test_confidence_that_is_off_or_gets_worse_is_said() -> None:
    first, second, third = (made(ece={"round": e}) for e in (0.05, 0.12, 0.2))
    assert calibration_alarms(first, None) == []
    assert calibration_alarms(second, None) == []
    assert "rose from 0.050 to 0.120" in calibration_alarms(second, first)[0]
    assert "round: the calibration error is 0.200, more than 0.15" in calibration_alarms(third, None)[0]
