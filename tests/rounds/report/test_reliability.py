"""Reliability in ten bins against a naive loop, and the picture of it."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cellsemi.rounds.colours import INK
from cellsemi.rounds.evaluation.reliability import BINS, Bin, bin_of, expected_calibration_error, reliability
from cellsemi.rounds.report.reliability_diagram import (
    AFTER,
    BEFORE,
    COLUMNS,
    GAP_PX,
    LEFT_PX,
    PLOT_PX,
    TITLE_PX,
    Diagram,
    picture,
    place,
)

EDGES = [st.sampled_from([n / 10 for n in range(11)]), st.floats(0, 1, width=32), st.floats(0, 1)]


@given(st.lists(st.tuples(st.one_of(EDGES), st.booleans()), max_size=60))
@settings(deadline=None, max_examples=200)
def test_the_bins_are_those_of_a_naive_loop(samples: list[tuple[float, bool]]) -> None:
    groups: dict[int, list[tuple[float, bool]]] = {}
    for confidence, hit in samples:
        groups.setdefault(9 if confidence == 1 else int(confidence * 10), []).append((confidence, hit))
    found = reliability(np.array([c for c, _ in samples]), np.array([h for _, h in samples], bool))
    assert [bin_of(one) for one in found] == sorted(groups)
    error = 0.0
    for one in found:
        group = groups[bin_of(one)]
        mean, rate = sum(c for c, _ in group) / len(group), sum(h for _, h in group) / len(group)
        assert one == (len(group), pytest.approx(mean), pytest.approx(rate))
        error += abs(sum(c for c, _ in group) - sum(h for _, h in group)) / len(samples)
    assert expected_calibration_error(found) == (pytest.approx(error) if samples else None)


def test_the_error_of_a_known_case() -> None:
    confidence = np.array([0.95, 0.95, 0.15, 0.15, 1.0])
    hit = np.array([True, False, False, False, True])
    bins = reliability(confidence, hit)
    assert [bin_of(found) for found in bins] == [1, 9]
    assert expected_calibration_error(bins) == pytest.approx((abs(2.9 - 2) + 0.3) / 5)


def test_a_mean_that_rounding_would_move_stays_in_its_bin() -> None:
    edge = 0.7  # 0.7 * 10 is 7.000000000000001, and a mean of many may come out a little lower
    for n in range(1, 60):
        (found,) = reliability(np.full(n, edge), np.zeros(n, bool))
        assert bin_of(found) == 7 and found.confidence == edge


def decode(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


ONE = Diagram("unet, cort", "ECE 0.1", (Bin(4, 0.25, 0.75), Bin(8, 0.75, 0.25)), (Bin(12, 0.55, 0.5),))
BARS = ((0.23, BEFORE), (0.73, BEFORE), (0.57, AFTER))  # in the left half of a bin before, in the right after


def test_the_picture_shows_both_curves_where_they_are() -> None:
    pixels = decode(picture([ONE]))
    plot = pixels[GAP_PX + TITLE_PX :, LEFT_PX : LEFT_PX + PLOT_PX]
    for found, colour in ((ONE.before[0], BEFORE), (ONE.before[1], BEFORE), (ONE.after[0], AFTER)):
        x, y = place(found.confidence, found.hit_rate)
        assert tuple(plot[round(y), round(x)]) == colour, found
    x, y = map(round, place(0.9, 0.9))
    assert (plot[y - 1 : y + 2, x - 1 : x + 2] < 150).any(), "the diagonal"
    tall = [int((plot[PLOT_PX + 2 :, round(place(at, 0)[0])] == colour).all(axis=1).sum()) for at, colour in BARS]
    assert tall[0] == pytest.approx(tall[2] / 3, abs=2) and tall[1] == pytest.approx(tall[2] * 2 / 3, abs=2)
    assert (pixels == INK).all(axis=2).any()


def test_the_picture_grows_with_the_diagrams_and_is_the_same_each_time() -> None:
    one, five = decode(picture([ONE])), decode(picture([ONE] * (COLUMNS + 1)))
    assert five.shape[1] > 3 * one.shape[1] and five.shape[0] > 1.8 * (one.shape[0] - 80)
    assert picture([ONE, ONE]) == picture([ONE, ONE])
    empty = Diagram("a \u2192 name that is much longer than there is room for it in the picture", "", (), ())
    assert decode(picture([empty])).shape[1] == one.shape[1]
    with pytest.raises(ValueError, match="at least one diagram"):
        picture([])
    assert BINS == 10
