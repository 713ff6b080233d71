"""The windows that TorchScript can hold are those of every other prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.inference.scripted_windows import window_starts, window_weight
from cellsemi.models.inference.tiling import _ramp
from cellsemi.models.inference.windows import spans, window_step


@pytest.mark.parametrize("settings", [{"tile_px": 64}, {"tile_px": 65, "overlap": 0.6}, {"stride_px": (31, 31)}])
@pytest.mark.parametrize("side", [1, 63, 64, 65, 100, 130, 509])
def test_windows_and_weights_are_those_of_tiling(settings: dict[str, object], side: int) -> None:
    inference = InferenceConfig.model_validate({"tile_px": 70, **settings})
    expected = spans(side, 0, inference)
    starts = window_starts(side, inference.tile_size[0], window_step(inference, 0))
    assert starts == [span.start for span in expected]
    for i, span in enumerate(expected):
        weight = window_weight(starts, i, span.stop - span.start, torch.zeros(1)).numpy()
        assert weight.dtype == np.float32
        np.testing.assert_allclose(weight, _ramp(span, side), rtol=0, atol=1e-7)
