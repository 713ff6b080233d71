"""Reliability in ten bins against a naive loop, and the picture of it."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cellsemi.rounds.calibration.reliability import BINS, Bin, bin_of, expected_calibration_error, reliability
from cellsemi.rounds.report.reliability_diagram import AFTER, BEFORE, COLUMNS, Diagram, draw, picture

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
BARS = [((0.212, 4), (0.712, 8)), ((0.55, 12),)]  # in the left half of a bin before, in the right half after


def test_the_picture_shows_both_curves_where_they_are() -> None:
    curves, counts = draw([ONE]).axes
    before, after, diagonal = curves.get_lines()
    for line, bins, colour in ((before, ONE.before, BEFORE), (after, ONE.after, AFTER)):
        assert np.asarray(line.get_xydata()).tolist() == [[found.confidence, found.hit_rate] for found in bins]
        assert line.get_color() == tuple(value / 255 for value in colour)
    assert np.asarray(diagonal.get_xydata()).tolist() == [[0, 0], [1, 1]]
    for container, expected in zip(counts.containers, BARS, strict=True):
        drawn = [(bar.get_x(), bar.get_height()) for bar in container]
        assert drawn == [(pytest.approx(x), height) for x, height in expected]
    assert curves.get_title() == "unet, cort\nECE 0.1"
    pixels = decode(picture([ONE]))
    for colour in (BEFORE, AFTER):
        assert (pixels == colour).all(axis=2).sum() > 20, "the colour is seen"


def test_the_picture_grows_with_the_diagrams_and_is_the_same_each_time() -> None:
    one, five = decode(picture([ONE])), decode(picture([ONE] * (COLUMNS + 1)))
    assert five.shape[1] > 3 * one.shape[1] and five.shape[0] > 1.8 * (one.shape[0] - 80)
    assert picture([ONE, ONE]) == picture([ONE, ONE])
    empty = Diagram("a \u2192 name of $5 that is much longer than there is room for it in the picture", "", (), ())
    assert decode(picture([empty])).shape[1] == one.shape[1]
    with pytest.raises(ValueError, match="at least one diagram"):
        picture([])
    assert BINS == 10
