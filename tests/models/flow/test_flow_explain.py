"""The pictures of a flow network: the colours of directions, and the cells that it found and left out."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Image
from cellsemi.models.flow.cells import LabelledCells, cells_of
from cellsemi.models.flow.explain import flow_colours, flow_wheel
from cellsemi.models.flow.predictor import FlowPredictor
from cellsemi.models.flow.targets import flow_targets
from cellsemi.models.inference.scale_search import ScaleSearch

LABELS = np.zeros((40, 60), np.int32)
LABELS[5:17, 5:17] = 1
LABELS[20:32, 40:52] = 2
LABELS[35:37, 10:12] = 3  # four pixels


class Perfect(FlowPredictor):
    """A network that puts out the truth."""

    def _pixels(self, image: Image) -> np.ndarray:
        return np.asarray(image, np.float32)

    def _tiled(self, images: list[np.ndarray]) -> list[np.ndarray]:
        outputs = np.concatenate([0.9 * (LABELS > 0)[None], flow_targets(LABELS, "diffusion")])
        return [outputs.astype(np.float32) for _ in images]

    def _cells(self, mean: np.ndarray, spread: np.ndarray, inference: InferenceConfig) -> LabelledCells:
        return cells_of(mean, spread, inference, "diffusion", False)


def perfect() -> Perfect:
    inference = InferenceConfig(tta=("identity",), min_area_px=10)
    return Perfect(inference, torch.device("cpu"))


def test_the_outputs_are_shown_and_cells_that_are_too_small_are_named() -> None:
    found = perfect().explain(np.zeros(LABELS.shape, np.uint8))
    maps = {each.name: each for each in found.maps}
    assert list(maps) == ["cell probability", "flow", "flow magnitude"]
    np.testing.assert_allclose(maps["cell probability"].values, 0.9 * (LABELS > 0), rtol=1e-6)
    assert maps["flow"].values.shape == (*LABELS.shape, 3) and maps["flow"].legend is not None
    assert not maps["flow"].values[LABELS == 0].any()
    inside = maps["flow magnitude"].values[LABELS == 1]
    assert 0.9 < inside.max() <= 1.001
    assert len(found.cells) == 2 and found.dropped is not None
    assert found.dropped.area.tolist() == [4] and found.dropped.state == ("rejected",)
    assert found.dropped.reason == ("4 px, fewer than inference.min_area_px 10",)


def test_a_search_says_what_was_kept() -> None:
    found = ScaleSearch(perfect(), (1.0, 2.0), ("as-is", "inverted")).explain(np.zeros(LABELS.shape, np.uint8))
    assert "the image at 1 times its size, as-is, was kept" in found.notes[0] and len(found.cells) == 2


@pytest.mark.parametrize("degrees", range(0, 360, 30))
def test_the_hue_is_the_direction_and_the_value_the_length(degrees: int) -> None:
    angle = np.deg2rad(degrees)
    flow = np.array([[[np.cos(angle)]], [[np.sin(angle)]]], np.float32)  # y, x
    hue, _, value = colorsys.rgb_to_hsv(*(flow_colours(flow)[0, 0] / 255).tolist())
    expected = (-(degrees + 180)) % 360  # red along -y, then against the hue circle
    assert min(abs(hue * 360 - expected), 360 - abs(hue * 360 - expected)) < 2
    assert value >= 0.74  # between two channels both are three quarters
    np.testing.assert_allclose(flow_colours(flow / 2), flow_colours(flow) / 2, atol=1)


def test_the_hues_are_those_of_cellpose() -> None:
    from cellpose.plot import dx_to_circ

    rng = np.random.default_rng(0)
    length, angle = rng.uniform(0.5, 1, (30, 30)), rng.uniform(0, 2 * np.pi, (30, 30))
    flow = np.stack([length * np.cos(angle), length * np.sin(angle)]).astype(np.float32)
    ours, theirs = flow_colours(flow).astype(float), dx_to_circ(flow.copy()).astype(float)
    bright = theirs.max(-1) > 100
    ours, theirs = ours[bright], theirs[bright]
    assert len(ours) > 300
    np.testing.assert_allclose(ours / ours.sum(-1, keepdims=True), theirs / theirs.sum(-1, keepdims=True), atol=0.02)


def test_no_flow_is_black_and_the_wheel_has_all_directions() -> None:
    assert not flow_colours(np.zeros((2, 5, 5), np.float32)).any()
    wheel = flow_wheel(101)
    assert not wheel[0, 0].any() and not wheel[50, 50].any()
    ends = {tuple(wheel[y, x]) for y, x in ((3, 50), (97, 50), (50, 3), (50, 97))}
    assert len(ends) == 4
