"""Masks of foreground and of classes, told from label maps by the pieces of their values."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cellsemi.rounds.formats.label_map.foreground import Foreground, foreground


def squares(*places: tuple[int, int, int, int]) -> NDArray[np.int32]:
    """A 40x60 map with a square of 6 px for each (value, x, y, side)."""
    labels = np.zeros((40, 60), np.int32)
    for value, x, y, side in places:
        labels[y : y + side, x : x + side] = value
    return labels


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (squares(), None),
        (squares((1, 2, 2, 6)), None),
        (squares((1, 2, 2, 6), (2, 20, 2, 6), (3, 40, 2, 6)), None),
        (squares((1, 2, 2, 6), (1, 20, 2, 6)), Foreground(1, 2)),
        (squares((1, 2, 2, 6), (1, 9, 2, 6)), None),  # a cell that something thin covers in the middle
        (squares((1, 2, 2, 6), (1, 9, 2, 6), (1, 16, 2, 6)), Foreground(1, 3)),
        (squares((1, 2, 2, 6), (1, 20, 20, 2)), None),  # a speck
        (squares((1, 2, 2, 6), (2, 20, 2, 6), (2, 40, 20, 6)), None),  # a cell that another one may cover in part
        (squares((1, 2, 2, 6), (2, 20, 2, 6), (2, 40, 20, 6), (2, 20, 20, 6)), Foreground(2, 3)),
        (squares((1, 0, 0, 6), (2, 10, 0, 6), (3, 20, 0, 6), (4, 30, 0, 6), (4, 50, 0, 6)), None),  # 4 values: numbered
        (squares((255, 2, 2, 6), (255, 20, 20, 1)), Foreground(255, 2)),
        (squares((255, 2, 2, 6)), None),
        (squares((65535, 2, 2, 6), (65535, 9, 2, 6)), Foreground(65535, 2)),
    ],
)
def test_values_in_several_places_are_no_cells(labels: NDArray[np.int32], expected: Foreground | None) -> None:
    assert foreground(labels) == expected
