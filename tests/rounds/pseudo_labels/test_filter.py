"""Every branch of the filter, on cells built for it, and what holds for any cells."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import from_crops
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.pseudo_labels.filter import REASONS, count_reasons, count_states, filter_cells
from cellsemi.rounds.pseudo_labels.thresholds import ChosenThresholds, Thresholds

LIMITS = Thresholds({"a": ChosenThresholds(0.6, 0.2, 20, 150, ""), "b": ChosenThresholds(0.9, 0.1, 0, None, "")})
LIMITS_OF_ANY_AREA = Thresholds({"a": ChosenThresholds(0.6, 0.2, 0, None, "")})
CLASSES = ("a", "b")


def squares(*boxes, **columns):
    """Squares of (x, y, side)."""
    return from_crops(60, 60, [(np.ones((side, side), bool), x, y) for x, y, side in boxes], **columns)


def verdict(quality, side=6, votes=2, class_id=0, min_votes=1):
    cell = squares((0, 0, side), quality=quality, score=0.5, votes=votes, class_id=class_id)
    found = filter_cells(cell, LIMITS, min_votes, CLASSES, round=3)
    return found.state[0], found.reason[0], float(found.weight[0])


@pytest.mark.parametrize(
    ("expected", "case"),
    [
        (("accepted", "", 0.75), {"quality": 0.75}),
        (("accepted", "", 0.6), {"quality": np.float32(0.6) + np.float32(1e-6)}),
        (("ignored", "uncertain", 0), {"quality": 0.5}),
        (("ignored", "uncertain", 0), {"quality": 0.2000001}),
        (("rejected", "low confidence", 0), {"quality": 0.19}),
        (("ignored", "too few votes", 0), {"quality": 0.99, "votes": 1, "min_votes": 2}),  # a cell, perhaps
        (("ignored", "too few votes", 0), {"quality": 0.2000001, "votes": 1, "min_votes": 2}),
        (("rejected", "too few votes", 0), {"quality": 0.19, "votes": 1, "min_votes": 2}),
        (("rejected", "too small", 0), {"quality": 0.5, "side": 4}),
        (("ignored", "too small", 0), {"quality": 0.7, "side": 4}),
        (("rejected", "low confidence", 0), {"quality": 0.1, "side": 4}),
        (("ignored", "too large", 0), {"quality": 0.99, "side": 13}),
        (("ignored", "too large", 0), {"quality": 0.01, "side": 13}),  # a clump: never background
        (("ignored", "too large", 0), {"quality": 0.5, "side": 13, "votes": 1, "min_votes": 2}),
        (("ignored", "uncertain", 0), {"quality": 0.75, "class_id": 1}),  # the other class asks for more
        (("accepted", "", 0.95), {"quality": 0.95, "class_id": 1, "side": 30}),  # and has no largest area
    ],
)
def test_verdicts(expected, case):
    state, reason, weight = verdict(**case)
    assert (state, reason, pytest.approx(weight, abs=1e-5)) == expected


def test_limits_are_inclusive():
    at = Thresholds({"a": ChosenThresholds(0.5, 0.25, 36, 36, "")})
    cells = squares((0, 0, 6), (20, 20, 6), quality=[0.5, 0.25])
    assert filter_cells(cells, at, 1, ("a",), 1).state == ("accepted", "ignored")
    # .7 and .35 are a little less as float32 than as float64.
    at = Thresholds({"a": ChosenThresholds(0.7, 0.35, 36, 36, "")})
    assert filter_cells(cells.with_(quality=[0.7, 0.35]), at, 1, ("a",), 1).state == ("accepted", "ignored")


def test_a_duplicate_leaves_the_loss_and_other_overlaps_stay():
    cells = squares(
        (0, 0, 10),  # the best
        (1, 0, 10),  # .9 of it inside the best: a duplicate
        (8, 0, 10),  # .2 inside the best, .3 inside the duplicate: stays
        (30, 30, 5),  # inside a larger but worse one: stays,
        (28, 28, 12),  # which is covered by little: stays too
        quality=[0.9, 0.8, 0.7, 0.9, 0.8],
        score=0.5,
    )
    found = filter_cells(cells, LIMITS, 1, CLASSES, 1)
    assert found.state == ("accepted", "ignored", "accepted", "accepted", "accepted")
    assert found.reason[1] == "duplicate"
    assert found.weight[1] == 0
    assert (found.state, found.rle) == (filter_cells(cells, LIMITS, 1, CLASSES, 1).state, cells.rle)


@pytest.mark.parametrize(("shift", "state"), [(4, "accepted"), (3, "ignored")])
def test_six_tenths_is_not_yet_a_duplicate(shift, state):
    cells = squares((0, 0, 10), (shift, 0, 10), quality=[0.9, 0.8])
    assert filter_cells(cells, LIMITS, 1, CLASSES, 1).state[1] == state


def test_a_duplicate_hides_nothing_and_what_is_not_accepted_is_no_rival():
    chain = squares((0, 0, 10), (3, 0, 10), (6, 0, 10), quality=[0.9, 0.8, 0.7])
    assert filter_cells(chain, LIMITS, 1, CLASSES, 1).state == ("accepted", "ignored", "accepted")
    uncertain_first = squares((0, 0, 10), (1, 0, 10), quality=[0.5, 0.7])
    assert filter_cells(uncertain_first, LIMITS, 1, CLASSES, 1).state == ("ignored", "accepted")


def test_a_clump_under_two_better_cells_leaves_the_loss():
    cells = squares((0, 0, 10), (10, 0, 10), quality=[0.9, 0.9], score=0.5)
    clump = from_crops(60, 60, [(np.ones((10, 24), bool), 0, 0)], quality=0.8, score=0.5)
    found = filter_cells(Instances.concat(60, 60, [cells, clump]), LIMITS_OF_ANY_AREA, 1, ("a",), 1)
    assert found.state == ("accepted", "accepted", "ignored")  # .42 of it in each, .83 in both
    assert found.reason[2] == "duplicate"
    # The better clump stays, and both cells in it leave the loss.
    found = filter_cells(Instances.concat(60, 60, [cells, clump.with_(quality=0.95)]), LIMITS_OF_ANY_AREA, 1, ("a",), 1)
    assert found.state == ("ignored", "ignored", "accepted")


def test_ties_in_quality_go_to_the_score_then_to_the_area():
    same = squares((0, 0, 10), (0, 0, 9), quality=0.9, score=[0.5, 0.6])
    assert filter_cells(same, LIMITS, 1, CLASSES, 1).state == ("ignored", "accepted")
    larger = squares((0, 0, 9), (0, 0, 10), quality=0.9, score=0.5)
    assert filter_cells(larger, LIMITS, 1, CLASSES, 1).state == ("ignored", "accepted")


def test_weights_and_round():
    cells = squares((0, 0, 6), (20, 20, 6), quality=[0.75, 0.3], round=1)
    plain = filter_cells(cells, LIMITS, 1, CLASSES, 4, weight_by_quality=False)
    assert plain.weight.tolist() == [1.0, 0.0]
    assert plain.round.tolist() == [4, 4]
    assert filter_cells(cells, LIMITS, 1, CLASSES, 4).weight.tolist() == [0.75, 0.0]


def test_reasons_are_counted_and_add_up():
    cells = squares((0, 0, 6), (20, 20, 6), (40, 40, 6), (50, 0, 4), quality=[0.75, 0.3, 0.3, 0.1])
    found = count_reasons(filter_cells(cells, LIMITS, 1, CLASSES, 1))
    assert found == Counter({"ignored: uncertain": 2, "accepted": 1, "rejected: low confidence": 1})
    assert count_states(found + found) == {"accepted": 2, "ignored": 4, "rejected": 2}
    assert count_states({}) == {"accepted": 0, "ignored": 0, "rejected": 0}


def test_unknown_classes_are_refused():
    with pytest.raises(ValueError, match="class_id: expected 0 to 1, got 2"):
        filter_cells(squares((0, 0, 6), class_id=2), LIMITS, 1, CLASSES, 1)
    with pytest.raises(ValueError, match="got none of \\['c'\\]"):
        filter_cells(Instances.empty(60, 60), LIMITS, 1, ("a", "c"), 1)
    assert len(filter_cells(Instances.empty(60, 60), LIMITS, 1, CLASSES, 1)) == 0


cell = st.tuples(
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(2, 15),
    st.integers(0, 100),
    st.integers(1, 3),
    st.integers(0, 1),
)


@given(st.lists(cell, max_size=12), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_what_holds_for_any_cells(drawn, min_votes, random):
    cells = squares(
        *[(x, y, side) for x, y, side, *_ in drawn],
        quality=[q / 100 for *_, q, _, _ in drawn],
        # Scores all differ: otherwise two equal masks would be a tie without an answer.
        score=[(k + 1) / 20 for k in range(len(drawn))],
        votes=[v for *_, v, _ in drawn],
        class_id=[c for *_, c in drawn],
    )
    found = filter_cells(cells, LIMITS, min_votes, CLASSES, 2)
    assert found.rle == cells.rle  # nothing is dropped, nothing moves
    assert set(found.reason) <= set(REASONS)
    assert [state == "accepted" for state in found.state] == [reason == "" for reason in found.reason]
    assert ((found.weight > 0) == [state == "accepted" for state in found.state]).all()
    assert sum(count_states(count_reasons(found)).values()) == len(cells)
    order = random.sample(range(len(cells)), len(cells))
    assert filter_cells(cells.select(order), LIMITS, min_votes, CLASSES, 2).state == tuple(
        found.state[i] for i in order
    )
    bitmaps = [decode(r, 60, 60) for r in found.rle]
    accepted = [i for i, state in enumerate(found.state) if state == "accepted"]
    key = list(zip(cells.quality.tolist(), cells.score.tolist(), strict=True))
    for i, reason in enumerate(found.reason):
        under = np.zeros((60, 60), bool)
        for j in accepted:
            under |= bitmaps[j] & (key[j] > key[i])
        if reason in ("", "duplicate"):
            assert ((under & bitmaps[i]).sum() * 10 > 6 * bitmaps[i].sum()) == (reason == "duplicate")
