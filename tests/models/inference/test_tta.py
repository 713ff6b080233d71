"""Views: turning back is the exact inverse, vectors included."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellsemi.configs.training import View
from cellsemi.models.inference.tta import turn, turn_back, turn_outputs_back

VIEWS: tuple[View, ...] = get_args(View)


def equivariant(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """A fake network whose outputs turn along with the image: the image, its gradient, its square."""
    padded = np.pad(image, 1, mode="edge")
    dy = padded[2:, 1:-1] - padded[:-2, 1:-1]
    dx = padded[1:-1, 2:] - padded[1:-1, :-2]
    return np.stack([image, dy, dx, image**2])


@pytest.mark.parametrize("view", VIEWS)
@given(height=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 99))
def test_every_view_of_an_equivariant_network_says_the_same(view: View, height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).random((height, width), np.float32)
    assert np.array_equal(turn_back(turn(image, view), view), image)
    back = turn_outputs_back(equivariant(np.ascontiguousarray(turn(image, view))), view)
    assert np.array_equal(back, equivariant(image))


def test_views_are_what_their_names_say() -> None:
    image = np.array([[1, 2, 3], [4, 5, 6]])
    assert turn(image, "flip_x").tolist() == [[3, 2, 1], [6, 5, 4]]
    assert turn(image, "flip_y").tolist() == [[4, 5, 6], [1, 2, 3]]
    assert turn(image, "rot90").tolist() == [[3, 6], [2, 5], [1, 4]]
    assert np.array_equal(turn(image, "rot180"), turn(turn(image, "flip_x"), "flip_y"))
    assert np.array_equal(turn(turn(image, "rot90"), "rot270"), image)
