"""Mending masks: each step does what it says, counts it, and leaves everything else alone."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.configs.data import CleanConfig
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import from_crops
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.cells.shape import parts
from cellsemi.rounds.datasets.cleaning import clean, holes

Bitmap = NDArray[np.bool_]

RING = np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]], bool)
TWO = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], bool)
DOT = np.array([[0, 0, 0, 0, 0]] * 4 + [[1, 0, 0, 0, 0]], bool)


def cells_of(*bitmaps: Bitmap, **columns: Any) -> Instances:
    columns.setdefault("state", "human")
    return from_crops(*bitmaps[0].shape, [(bitmap, 0, 0) for bitmap in bitmaps], **columns)


def bitmaps(cells: Instances) -> list[Bitmap]:
    return [decode(rle, cells.height, cells.width) for rle in cells.rle]


def test_nothing_is_changed_when_nothing_is_asked_for() -> None:
    cells = cells_of(RING, TWO, DOT, TWO)
    cleaned, counts = clean(cells, CleanConfig())
    assert cleaned.rle == cells.rle and counts == Counter() and not CleanConfig().active


def test_holes_are_filled_and_counted() -> None:
    cleaned, counts = clean(cells_of(RING, TWO), CleanConfig(fill_holes=True))
    assert cleaned.area.tolist() == [9, 5] and counts == {"holes filled": 1}
    assert np.array_equal(bitmaps(cleaned)[0], ndimage.binary_fill_holes(RING))


def test_the_largest_part_is_kept() -> None:
    cleaned, counts = clean(cells_of(TWO, RING), CleanConfig(parts="largest"))
    assert cleaned.area.tolist() == [4, 8] and counts == {"reduced to the largest part": 1}


def test_parts_become_cells_of_their_own_and_keep_class_and_weight() -> None:
    cells = cells_of(RING, TWO, class_id=[2, 1], weight=[1.0, 0.5])
    cleaned, counts = clean(cells, CleanConfig(parts="split"))
    assert cleaned.area.tolist() == [8, 4, 1]
    assert cleaned.class_id.tolist() == [2, 1, 1] and cleaned.weight.tolist() == [1.0, 0.5, 0.5]
    assert counts == {"split into parts": 1, "cells added by splitting": 1}
    assert set(cleaned.state) == {"human"}


def test_a_mask_that_stands_there_twice_is_kept_once() -> None:
    cleaned, counts = clean(cells_of(TWO, RING, TWO, class_id=[0, 1, 2]), CleanConfig(drop_duplicates=True))
    assert cleaned.class_id.tolist() == [0, 1] and counts == {"the same mask again, dropped": 1}


def test_small_cells_are_dropped_after_everything_else() -> None:
    cleaned, counts = clean(cells_of(RING, TWO, DOT), CleanConfig(parts="split", min_area_px=2))
    assert cleaned.area.tolist() == [8, 4]
    assert counts["too small, dropped"] == 2


def test_ignored_cells_are_left_as_they_are() -> None:
    cells = cells_of(RING, DOT, DOT, state=["ignored", "ignored", "ignored"])
    every = CleanConfig(fill_holes=True, parts="split", drop_duplicates=True, min_area_px=100, redraw_px=3)
    cleaned, counts = clean(cells, every)
    assert cleaned.rle == cells.rle and counts == Counter()


def test_a_broken_outline_is_closed_and_filled() -> None:
    outline = np.zeros((40, 40), bool)
    rows, columns = np.ogrid[:40, :40]
    distance = np.hypot(rows - 20, columns - 20)
    outline[(distance > 11) & (distance < 13)] = True
    outline[19:21, 30:] = False  # a gap of two pixels
    assert holes(outline) == 0
    cleaned, counts = clean(cells_of(outline), CleanConfig(redraw_px=4))
    (drawn,) = bitmaps(cleaned)
    disc = distance < 13
    assert counts == {"redrawn": 1}
    assert (drawn & disc).sum() / (drawn | disc).sum() > 0.9 and (drawn | ~outline).all()


@pytest.mark.parametrize("corner", [(0, 0), (0, 34), (34, 0), (34, 34)])
def test_a_cell_at_the_border_is_redrawn_in_its_place(corner: tuple[int, int]) -> None:
    bitmap = np.zeros((40, 40), bool)
    y, x = corner
    bitmap[y : y + 6, x : x + 6] = True
    solid = bitmap.copy()
    bitmap[y + 2 : y + 4, x + 2 : x + 4] = False
    cleaned, _ = clean(cells_of(bitmap), CleanConfig(redraw_px=3))
    assert np.array_equal(bitmaps(cleaned)[0], solid)


def test_no_cells_stay_no_cells() -> None:
    cleaned, counts = clean(Instances.empty(5, 5), CleanConfig(fill_holes=True, parts="split", drop_duplicates=True))
    assert len(cleaned) == 0 and counts == Counter()


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(bool, (9, 11)).filter(lambda bitmap: bool(bitmap.any())))
def test_splitting_loses_no_pixel_and_every_part_is_in_one_piece(bitmap: Bitmap) -> None:
    cleaned, _ = clean(cells_of(bitmap), CleanConfig(parts="split"))
    found = bitmaps(cleaned)
    assert np.array_equal(np.sum(found, axis=0), bitmap.astype(int))
    assert all(ndimage.label(part, np.ones((3, 3)))[1] == 1 for part in found)
    assert len(found) == parts(bitmap).max()


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(bool, (9, 11)).filter(lambda bitmap: bool(bitmap.any())), st.integers(1, 4))
def test_redrawing_never_takes_a_pixel_away_and_leaves_no_hole(bitmap: Bitmap, gap_px: int) -> None:
    cleaned, _ = clean(cells_of(bitmap), CleanConfig(redraw_px=gap_px))
    (drawn,) = bitmaps(cleaned)
    assert (drawn >= bitmap).all() and holes(drawn) == 0


def test_holes_and_parts_are_counted_as_people_see_them() -> None:
    assert holes(RING) == 1 and holes(TWO) == 0
    diagonal = np.eye(3, dtype=bool)
    assert parts(diagonal).max() == 1 and parts(TWO).max() == 2


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_the_pixels_of_holes_are_those_that_filling_adds(bitmap: Bitmap) -> None:
    assert holes(bitmap) == int((ndimage.binary_fill_holes(bitmap) & ~bitmap).sum())
