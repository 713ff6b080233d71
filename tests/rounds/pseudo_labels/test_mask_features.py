"""What sees merges in a mask: solidity, a second core, smaller masks inside; each against a naive count."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import from_crops
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.cells.shape import second_core, solidity
from cellsemi.rounds.pseudo_labels.mask_features import FEATURES, features


def disc(radius: int, *centres: tuple[int, int]) -> np.ndarray:
    y, x = np.ogrid[:60, :90]
    return np.logical_or.reduce([(y - cy) ** 2 + (x - cx) ** 2 <= radius**2 for cy, cx in centres])


def hull_area(mask: np.ndarray) -> float:
    """The area of the convex hull of all pixel corners: Andrew's monotone chain (1979), then the shoelace formula."""
    corners = sorted({(int(y) + dy, int(x) + dx) for y, x in np.argwhere(mask) for dy in (0, 1) for dx in (0, 1)})

    def chain(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
        kept: list[tuple[int, int]] = []
        for y, x in points:
            while len(kept) > 1 and (kept[-1][0] - kept[-2][0]) * (x - kept[-2][1]) <= (kept[-1][1] - kept[-2][1]) * (
                y - kept[-2][0]
            ):
                kept.pop()
            kept.append((y, x))
        return kept[:-1]

    ring = chain(corners) + chain(corners[::-1])
    return abs(sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(ring, ring[1:] + ring[:1], strict=True))) / 2


@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=6))
@settings(max_examples=80)
def test_solidity_is_the_share_of_the_hull_of_the_pixel_corners(rows: list[list[bool]]) -> None:
    mask = np.array(rows)
    mask[0, 3] = True
    assert solidity(mask) == pytest.approx(mask.sum() / hull_area(mask))


def test_two_cells_in_one_mask_are_less_solid_and_have_two_cores() -> None:
    one, two = disc(10, (30, 30)), disc(10, (30, 30), (30, 48))
    uneven = disc(10, (30, 30)) | disc(7, (30, 45))
    assert solidity(np.ones((3, 9), bool)) == 1
    assert solidity(one) > 0.9 > solidity(two)
    assert second_core(one) == second_core(np.ones((1, 1), bool)) == second_core(np.ones((5, 40), bool)) == 0
    assert second_core(two) == pytest.approx(1, abs=0.05)
    assert 0 < second_core(uneven) < 0.6
    assert second_core(disc(10, (30, 30), (30, 36))) == 0  # no waist: a long cell


def test_what_another_teacher_saw_as_two_cells_are_children_of_the_merge() -> None:
    square, wide = np.ones((6, 6), bool), np.ones((6, 13), bool)
    crops = [(wide, 5, 5), (square, 5, 5), (square, 12, 5), (square, 40, 5), (square, 15, 20), (square, 17, 20)]
    cells = from_crops(40, 60, crops, score=0.5)
    found = features(cells)[:, FEATURES.index("children")].tolist()
    assert found == [2, 0, 0, 0, 0, 0]  # of two as large none is the other's child


@st.composite
def some_cells(draw: st.DrawFn) -> Instances:
    boxes = draw(st.lists(st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 6)] * 2), min_size=1, max_size=7))
    return from_crops(12, 12, [(np.ones((h, w), bool), x, y) for x, y, h, w in boxes], score=0.5)


@given(some_cells())
@settings(max_examples=60)
def test_children_are_those_of_a_naive_loop(cells: Instances) -> None:
    masks = [decode(rle, 12, 12) for rle in cells.rle]
    expected = [0] * len(masks)
    for a, b in combinations(range(len(masks)), 2):
        for parent, child in ((a, b), (b, a)):
            inside = 2 * (masks[parent] & masks[child]).sum() > masks[child].sum()
            expected[parent] += bool(inside and masks[child].sum() < masks[parent].sum())
    assert features(cells)[:, FEATURES.index("children")].tolist() == expected
