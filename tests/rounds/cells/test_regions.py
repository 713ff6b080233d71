"""Regions that hold cells are told from cells, large ones and overlapping ones among them."""

from __future__ import annotations

import numpy as np
import pytest

from cellsemi.rounds.cells.masks import from_crops
from cellsemi.rounds.cells.regions import regions

Box = tuple[int, int, int, int]
CELLS: list[Box] = [(5, 5, 9, 9), (15, 5, 19, 9), (25, 5, 29, 9), (35, 25, 39, 29)]


def found(boxes: list[Box], rectangles: bool = False, **columns: object) -> list[bool]:
    """What of boxes (x0, y0, x1, y1), without their upper left pixel, are regions; those from 20 px on are whole."""
    crops = []
    for x0, y0, x1, y1 in boxes:
        mask = np.ones((y1 - y0, x1 - x0), bool)
        mask[0, 0] = x1 - x0 >= 20
        crops.append((mask, x0, y0))
    return regions(from_crops(40, 60, crops, **columns), rectangles).tolist()


@pytest.mark.parametrize(
    ("region", "rectangles", "expected"),
    [
        ((0, 0, 60, 40), False, True),
        ((0, 0, 32, 12), False, True),  # three of the four
        ((0, 0, 22, 12), False, False),  # two of them: a large cell over others
        ((40, 0, 60, 20), False, False),  # nothing in it
        ((40, 0, 60, 20), True, True),  # but a plain rectangle among outlines
        ((30, 20, 40, 30), True, False),  # large, and no rectangle
    ],
)
def test_what_is_large_and_covers_others_is_a_region(region: Box, rectangles: bool, expected: bool) -> None:
    assert found([region, *CELLS], rectangles) == [expected, *[False] * 4]


def test_cells_are_no_regions() -> None:
    assert found(CELLS) == [False] * 4 and found([]) == [] and found(CELLS[:1]) == [False]
    assert found([(0, 0, 60, 40), *CELLS], state=["ignored", *["human"] * 4]) == [False] * 5
    assert found([(0, 0, 60, 40)], rectangles=True) == [False]
