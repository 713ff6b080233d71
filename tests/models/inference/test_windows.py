"""The window that an explanation shows."""

from __future__ import annotations

import numpy as np

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.inference.windows import fullest, part_of, windows


def test_the_window_with_most_cells_is_shown_in_pixels_of_the_image() -> None:
    placed = windows(100, 200, InferenceConfig(tile_px=64))
    centres = np.array([[150.0, 90.0], [160.0, 80.0], [10.0, 10.0]])
    window = fullest(placed, centres)
    inside = [w for w in placed if w.x.start <= 150 < w.x.stop and w.x.start <= 160 < w.x.stop and w.y.stop == 100]
    assert window in inside
    assert fullest(placed, np.zeros((0, 2))) is placed[0]
    assert part_of(window, 2.0, 50, 100) == (window.x.start // 2, 18, window.x.stop // 2, 50)
    assert part_of(windows(10, 10, InferenceConfig())[0], 1.0, 10, 10) == (0, 0, 10, 10)
