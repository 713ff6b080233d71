"""Where the boxes and heads of a detector are drawn."""

from __future__ import annotations

import numpy as np

from cellsemi.models.detector.explain import Frame, _painted, _pasted


def test_boxes_of_an_enlarged_window_come_back_to_the_image() -> None:
    frame = Frame(size=(64, 128), part=(100, 50, 164, 82), filled=(1.0, 1.0))  # enlarged twice
    boxes = np.array([[0, 0, 128, 64], [20, 10, 40, 30]], np.float32)
    assert frame.on_image(boxes).tolist() == [[100, 50, 164, 82], [110, 55, 120, 65]]


def test_a_pixel_has_the_mean_of_the_boxes_that_hold_it() -> None:
    boxes = np.array([[0, 0, 4, 2], [2, 0, 6, 2]], np.float32)
    found = _painted(boxes, np.array([1.0, 3.0], np.float32), (3, 8))
    assert found[0].tolist() == [1, 1, 2, 2, 3, 3, 0, 0] and not found[2].any()


def test_masks_are_spread_over_their_boxes_and_the_most_of_them_stays() -> None:
    boxes = np.array([[0, 0, 4, 4], [2, 0, 6, 4]], np.float32)
    values = np.stack([np.full((2, 2), 0.5), np.full((2, 2), 0.8)]).astype(np.float32)
    found = _pasted(boxes, values, (6, 8))
    np.testing.assert_allclose(found[0], [0.5, 0.5, 0.8, 0.8, 0.8, 0.8, 0, 0], rtol=1e-6)
    assert not found[4:].any()
