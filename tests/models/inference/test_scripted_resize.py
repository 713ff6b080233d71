"""The resize of the TorchScript file is OpenCV's, which predictors use."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellsemi.models.inference.scripted_resize import resized, scaled_side


@settings(max_examples=80, deadline=None)
@given(sides=st.tuples(st.integers(1, 70), st.integers(1, 70)), scale=st.floats(0.1, 4), seed=st.integers(0, 99))
def test_both_ways_are_those_of_opencv(sides: tuple[int, int], scale: float, seed: int) -> None:
    pixels = np.random.default_rng(seed).random((2, *sides), np.float32)
    height, width = (scaled_side(side, scale) for side in sides)
    method = cv2.INTER_AREA if height * width < pixels[0].size else cv2.INTER_LINEAR
    expected = np.stack([cv2.resize(channel, (width, height), interpolation=method) for channel in pixels])
    found = resized(torch.from_numpy(pixels), height, width).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)


@given(side=st.integers(1, 5000), scale=st.one_of(st.floats(0.1, 10), st.sampled_from([0.5, 1.5, 2.5])))
def test_sides_round_as_everywhere(side: int, scale: float) -> None:
    assert scaled_side(side, scale) == max(1, round(side * scale))


def test_an_image_of_its_own_size_is_left_alone() -> None:
    pixels = torch.rand(1, 5, 7)
    assert resized(pixels, 5, 7) is pixels
