"""Turns an image into a test-time view, and turns the outputs of the view back, flow vectors included."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.training import View

_TURNS: dict[View, int] = {"rot90": 1, "rot180": 2, "rot270": 3}  # quarter turns, counter-clockwise
_FLIPS: dict[View, int] = {"flip_y": -2, "flip_x": -1}  # the axis that is mirrored
FLOW_Y, FLOW_X = 1, 2  # channels of the outputs


def turn(array: NDArray[Any], view: View) -> NDArray[Any]:
    """The view of a (..., H, W) array; rot90 and rot270 swap the sides.

    >>> turn(np.array([[1, 2], [3, 4]]), "rot90").tolist()
    [[2, 4], [1, 3]]
    """
    if view in _FLIPS:
        return np.flip(array, _FLIPS[view])
    return np.rot90(array, _TURNS.get(view, 0), axes=(-2, -1))


def turn_back(array: NDArray[Any], view: View) -> NDArray[Any]:
    """The inverse of `turn`: `turn_back(turn(a, v), v)` is `a`."""
    if view in _FLIPS:
        return np.flip(array, _FLIPS[view])
    return np.rot90(array, -_TURNS.get(view, 0), axes=(-2, -1))


def turn_outputs_back(outputs: NDArray[np.float32], view: View) -> NDArray[np.float32]:
    """Outputs (C, H, W) of a view, channels FLOW_Y and FLOW_X being vectors, in the image's own frame."""
    back = np.array(turn_back(outputs, view))
    y, x = back[FLOW_Y].copy(), back[FLOW_X].copy()
    if view == "flip_y":
        y = -y
    elif view == "flip_x":
        x = -x
    # A quarter turn counter-clockwise sends (y, x) to (-x, y), so the way back sends (y, x) to (x, -y).
    for _ in range(_TURNS.get(view, 0)):
        y, x = x, -y
    back[FLOW_Y], back[FLOW_X] = y, x
    return back
