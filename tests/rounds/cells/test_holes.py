"""Holes of predicted masks, against scipy mask by mask."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.models.detector.cell_crops import CellCrops
from cellsemi.models.flow.cells import LabelledCells
from cellsemi.rounds.cells import masks

RING = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]], bool)


@settings(max_examples=80, deadline=None)
@given(hnp.arrays(np.int32, (9, 11), elements=st.sampled_from([0, 1, 2, 2, 1])))
def test_the_holes_of_a_label_map_go_to_the_cell_around_them(labels: NDArray[np.int32]) -> None:
    numbers = np.unique(labels[labels > 0])
    dense = np.searchsorted(numbers, labels).astype(np.int32) + (labels > 0) if len(numbers) else labels
    count = len(numbers)
    cells = LabelledCells(dense, np.ones(count, np.float32), np.zeros(count, np.int64), np.zeros(count))
    found = cells.without_holes().labels
    assert (found[dense > 0] == dense[dense > 0]).all(), "no cell loses a pixel"
    for number in range(1, count + 1):
        filled = ndimage.binary_fill_holes(dense == number)
        assert ((found == number) <= filled).all()
        holes = filled & (dense == 0)
        assert (found[holes] > 0).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(hnp.arrays(bool, (6, 7), elements=st.booleans()), min_size=1, max_size=4))
def test_masks_are_filled_one_by_one(bitmaps: list[NDArray[np.bool_]]) -> None:
    crops = [(bitmap | ~bitmap.any(), 2, 1) for bitmap in bitmaps]
    expected = [ndimage.binary_fill_holes(np.pad(crop, ((1, 2), (2, 3)))) for crop, _, _ in crops]
    cells = masks.from_crops(9, 12, crops, score=np.linspace(0.1, 0.9, len(crops)), class_id=[1] * len(crops))
    found = masks.without_holes(cells)
    drawn = [masks.to_label_map(found.select([k])) > 0 for k in range(len(found))]
    assert all(np.array_equal(a, b) for a, b in zip(drawn, expected, strict=True))
    assert found.score.tolist() == cells.score.tolist() and found.area.tolist() == [int(e.sum()) for e in expected]
    held = CellCrops.of(9, 12, crops, cells.class_id, cells.score).without_holes().encode()
    assert held.rle == found.rle


def test_a_ring_becomes_a_disc_and_no_cell_is_as_it_was() -> None:
    cells = masks.from_crops(5, 6, [(RING, 1, 1)])
    assert int(masks.without_holes(cells).area[0]) == int(RING.sum()) + 1
    assert len(masks.without_holes(cells.select([]))) == 0
