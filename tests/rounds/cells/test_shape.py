"""Shape of a mask: by hand, and against the definitions written out here."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.rounds.cells.shape import centroid, eccentricity, parts, perimeter

BESIDE = ((-1, 0), (1, 0), (0, -1), (0, 1))
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
# Length that a border pixel adds, by 1 for itself, 2 for each border pixel beside it, 10 for each at a corner
# (Benkrid and Crookes 2000).
LENGTH = dict.fromkeys((5, 7, 15, 17, 25, 27), 1.0) | dict.fromkeys((21, 33), sqrt(2))
LENGTH |= dict.fromkeys((13, 23), (1 + sqrt(2)) / 2)

CROPS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.booleans()).filter(np.any)


def test_simple_shapes_measure_as_by_hand() -> None:
    # A rectangle of 6 x 3: its border runs through the centres of 2 * (5 + 2) border pixels.
    assert perimeter(np.ones((3, 6), bool)) == 14
    assert perimeter(np.ones((1, 1), bool)) == 0
    # The variance of n whole numbers in a row is (n**2 - 1) / 12.
    assert eccentricity(np.ones((3, 6), bool)) == pytest.approx(sqrt(1 - 8 / 35))
    assert eccentricity(np.ones((6, 3), bool)) == pytest.approx(sqrt(1 - 8 / 35))
    assert eccentricity(np.eye(5, dtype=bool)) == 1 and eccentricity(np.ones((1, 7), bool)) == 1
    assert eccentricity(np.ones((1, 1), bool)) == 0 and eccentricity(np.ones((3, 3), bool)) == 0
    assert centroid(np.ones((3, 6), bool)) == (2.5, 1)


@given(CROPS)
def test_the_perimeter_is_the_sum_over_the_border_pixels(crop: NDArray[np.bool_]) -> None:
    inside = {(int(y), int(x)) for y, x in np.argwhere(crop)}
    border = {(y, x) for y, x in inside if any((y + dy, x + dx) not in inside for dy, dx in BESIDE)}

    def near(y: int, x: int, steps: tuple[tuple[int, int], ...]) -> int:
        return sum((y + dy, x + dx) in border for dy, dx in steps)

    kinds = [1 + 2 * near(y, x, BESIDE) + 10 * near(y, x, CORNERS) for y, x in border]
    assert perimeter(crop) == pytest.approx(sum(LENGTH.get(kind, 0.0) for kind in kinds), abs=1e-9)


@given(CROPS)
def test_the_eccentricity_is_that_of_the_moments(crop: NDArray[np.bool_]) -> None:
    (cyy, cxy), (_, cxx) = np.cov(np.array(np.nonzero(crop), np.float64), bias=True).tolist()
    middle, reach = (cxx + cyy) / 2, sqrt(((cxx - cyy) / 2) ** 2 + cxy**2)
    share = (middle - reach) / (middle + reach) if middle + reach else 1.0
    assert eccentricity(crop) == pytest.approx(sqrt(max(0.0, 1 - share)), abs=1e-6)


@given(CROPS)
def test_parts_are_numbered_by_their_first_pixel_and_join_at_corners(crop: NDArray[np.bool_]) -> None:
    assert (parts(crop) == ndimage.label(crop, np.ones((3, 3)))[0]).all() and parts(crop).dtype == np.int32
