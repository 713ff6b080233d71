"""The benchmark of repeated tries: what chance comes to is known where every try is a fair coin."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.benchmark_scripts import retries


def test_the_shares_are_those_of_known_probabilities() -> None:
    found = np.array([[0.7, 0.1, 0.1], [0.1, 0.7, 0.1], [0.1, 0.1, 0.9], [0.5, 0.5, 0.5]])
    assert [retries.promoted(found, 0.6, tries, False) for tries in (1, 2, 3)] == [0.25, 0.5, 0.75]
    # 0.7 is not enough for a second try (0.8 is needed), 0.9 is for a third (0.867).
    assert [retries.promoted(found, 0.6, tries, True) for tries in (1, 2, 3)] == [0.25, 0.25, 0.5]


def test_a_try_without_gain_is_a_coin_whose_chance_is_what_is_not_asked() -> None:
    """With many images the probability of a candidate without gain is uniform, but for the incumbent that all share."""
    found = retries.probabilities(60, 800, 0)
    assert found.shape == (800, 3)
    for asked in (0.5, 0.6, 0.9):
        assert retries.promoted(found, asked, 1, True) == pytest.approx(1 - asked, abs=0.06)
    rows = retries.lines(20, 0)
    assert len(rows) == len(retries.COUNTS) * len(retries.ASKED) and all(len(row) == 8 for row in rows)
    assert rows == retries.lines(20, 0), "the seed decides"
