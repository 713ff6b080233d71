"""Outlines: tracing a mask and filling it again gives the same mask; what is filled agrees with a slow reference."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.rounds.cells.masks import from_crops
from cellsemi.rounds.cells.outlines import OutlineError, fill, signed_area, to_instances, trace
from cellsemi.rounds.cells.rle import decode, encode

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(np.any)
QUARTERS = st.integers(-24, 40).map(lambda n: n / 4)
RINGS = st.lists(st.tuples(QUARTERS, QUARTERS), min_size=3, max_size=8).map(lambda points: np.array(points, float))


def mask_of(rows: str) -> NDArray[np.bool_]:
    return np.array([[c == "#" for c in row] for row in rows.split()])


def flat(crop: NDArray[np.bool_], x0: int = 0, y0: int = 0) -> list[NDArray[Any]]:
    return [ring for polygon in trace(crop, x0, y0) for ring in polygon]


def slowly_filled(rings: list[NDArray[Any]], height: int, width: int) -> NDArray[np.bool_]:
    """Even-odd, pixel by pixel, in exact arithmetic: how many segments lie above a point just left of the centre?"""
    found = np.zeros((height, width), bool)
    for y, x in np.ndindex(height, width):
        centre, middle = Fraction(2 * x + 1, 2) - Fraction(1, 10**6), Fraction(2 * y + 1, 2) + Fraction(1, 10**12)
        for ring in rings:
            points = [(Fraction(a), Fraction(b)) for a, b in ring.tolist()]
            for start, end in zip(points, [*points[1:], points[0]], strict=True):
                (ax, ay), (bx, by) = sorted((start, end))
                if ax < centre < bx and ay + (centre - ax) * (by - ay) / (bx - ax) < middle:
                    found[y, x] ^= True
    return found


@settings(deadline=None, max_examples=200)
@given(crop=MASKS, x0=st.integers(0, 5), y0=st.integers(0, 5), more=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_a_mask_traced_and_filled_is_the_same(crop: NDArray[np.bool_], x0: int, y0: int, more: tuple[int, int]) -> None:
    height, width = y0 + crop.shape[0] + more[0], x0 + crop.shape[1] + more[1]
    whole = np.zeros((height, width), bool)
    whole[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] = crop
    filled = fill(flat(crop, x0, y0), height, width)
    expected = from_crops(height, width, [(crop, x0, y0)])
    assert filled.rle == encode(whole)
    assert (list(filled.bbox), filled.area) == (expected.bbox[0].tolist(), int(crop.sum()))


@settings(deadline=None, max_examples=150)
@given(crop=MASKS)
def test_rings_are_simple_and_a_polygon_is_a_part_with_its_holes(crop: NDArray[np.bool_]) -> None:
    polygons = trace(crop, 0, 0)
    parts, count = ndimage.label(crop)
    assert len(polygons) == count
    found = []
    for outer, *holes in polygons:
        for ring in (outer, *holes):
            assert len({(x, y) for x, y in ring.tolist()}) == len(ring)
            steps = np.roll(ring, -1, axis=0) - ring
            assert ((steps == 0).sum(axis=1) == 1).all()  # along the edges of pixels
        assert signed_area(outer) > 0 > max([signed_area(hole) for hole in holes], default=-1)
        mask = decode(fill([outer, *holes], *crop.shape).rle, *crop.shape)
        assert mask.sum() == sum(map(signed_area, (outer, *holes)))
        found.append(set(parts[mask].tolist()))
    assert sorted(map(tuple, found)) == [(i + 1,) for i in range(count)]


@settings(deadline=None, max_examples=80)
@given(rings=st.lists(RINGS, min_size=1, max_size=2))
def test_filling_agrees_with_exact_arithmetic_on_any_polygon(rings: list[NDArray[Any]]) -> None:
    expected = slowly_filled(rings, 6, 8)
    outside = any(((ring < (-8, -6)) | (ring > (16, 12))).any() for ring in rings)
    if outside or not expected.any():
        with pytest.raises(OutlineError):
            fill(rings, 6, 8)
    else:
        assert np.array_equal(decode(fill(rings, 6, 8).rle, 6, 8), expected)


def test_one_pixel_is_a_square_that_runs_clockwise() -> None:
    [[ring]] = trace(np.ones((1, 1), bool), 3, 5)
    assert ring.tolist() == [[3, 5], [4, 5], [4, 6], [3, 6]] and signed_area(ring) == 1


def test_a_hole_and_an_island_in_it_are_told_apart() -> None:
    crop = mask_of("##### #...# #.#.# #...# #####")
    [[outer, hole], [island]] = trace(crop, 0, 0)
    assert [signed_area(ring) for ring in (outer, hole, island)] == [25, -9, 1]


@pytest.mark.parametrize(
    ("rows", "areas"),
    [
        ("#. .#", [[1], [1]]),
        (".# #.", [[1], [1]]),
        ("### #.# ##.", [[8, -1]]),  # the outline meets itself at a corner: it is cut there, into ring and hole
        ("#### #.## ##.# ####", [[16, -1, -1]]),
        ("##### ##.## #.#.# ##.## #####", [[25, -5], [1]]),
    ],
)
def test_corners_that_touch_split_rings(rows: str, areas: list[list[int]]) -> None:
    assert [[signed_area(ring) for ring in polygon] for polygon in trace(mask_of(rows), 0, 0)] == areas


def test_each_hole_goes_to_the_part_around_it() -> None:
    crop = mask_of("###.### #.#.#.# ###.###")
    assert [[ring[:, 0].min() for ring in polygon] for polygon in trace(crop, 0, 0)] == [[0, 1], [4, 5]]


def test_neighbours_with_a_common_edge_share_the_pixels_without_gap_or_overlap() -> None:
    a = np.array([(0, 0), (8, 0), (0.5, 8)])
    b = np.array([(8, 0), (8, 8), (0.5, 8)])
    c = np.array([(0, 0), (0.5, 8), (0, 8)])
    filled = [ring for ring in (a, b, c) if len(slowly_filled([ring], 8, 8).nonzero()[0])]
    assert sum(fill([ring], 8, 8).area for ring in filled) == 64


def test_centres_on_the_outline_are_inside_at_the_right_and_outside_at_the_left() -> None:
    filled = fill([np.array([(3, 0), (6, 3), (3, 6), (0, 3)])], 6, 6)
    assert np.array_equal(decode(filled.rle, 6, 6), mask_of("...#.. ..###. .##### .##### ..###. ...#.."))


def test_what_lies_beyond_the_image_is_cut_off() -> None:
    filled = fill([np.array([(-3, -2), (2, -2), (2, 9), (-3, 9)])], 5, 4)
    assert filled.bbox == (0, 0, 2, 5) and filled.area == 10


@pytest.mark.parametrize(
    ("ring", "problem"),
    [
        ([(0, 0), (99, 0), (0, 5)], r"\(99, 0\) lies far outside"),
        ([(0, 0), (float("nan"), 0), (0, 5)], "nan"),
        ([(0, 0), (float("inf"), 0), (0, 5)], "inf"),
        ([(0.6, 0.6), (0.9, 0.6), (0.6, 0.9)], "no pixel centre"),
        ([(5, 0), (9, 0), (9, 5)], "no pixel centre"),
        ([(0, 0), (4, 0)], "no pixel centre"),
        ([], "no pixel centre"),
    ],
)
def test_what_is_no_cell_is_refused(ring: list[tuple[float, float]], problem: str) -> None:
    with pytest.raises(OutlineError, match=problem):
        fill([np.array(ring, float).reshape(-1, 2)], 5, 5)
    with pytest.raises(OutlineError, match="no pixel centre"):
        fill([], 5, 5)


def test_an_endless_outline_is_refused_before_memory_is_taken() -> None:
    comb = np.array([(0, 0), (9_000, 1)] * 500 + [(0, 2)], float)
    tracemalloc.start()
    with pytest.raises(OutlineError, match="9000000 columns"):
        fill([comb], 9_000, 9_000)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_cell_as_large_as_the_image_takes_no_bitmap() -> None:
    tracemalloc.start()
    filled = fill([np.array([(0, 0), (10_000, 0), (10_000, 10_000), (0, 10_000)])], 10_000, 10_000)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert filled.area == 10**8 and filled.bbox == (0, 0, 10_000, 10_000)


def test_filled_outlines_become_instances() -> None:
    crops = [(mask_of("## #."), 0, 0), (mask_of("###"), 1, 2)]
    cells = to_instances([fill(flat(*crop), 4, 5) for crop in crops], 4, 5, class_id=[1, 0], state="human")
    expected = from_crops(4, 5, crops, class_id=[1, 0], state="human")
    assert cells.rle == expected.rle and np.array_equal(cells.bbox, expected.bbox)
    assert cells.area.tolist() == [3, 3] and cells.class_id.tolist() == [1, 0]
    assert len(to_instances([], 4, 5)) == 0
