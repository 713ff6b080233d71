"""Cellpose-SAM predicts as cellpose does: masks, flow errors, views, scales, tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cellpose import dynamics
from numpy.typing import NDArray
from torch import Tensor, nn

from cellsemi.configs.training import GridConfig, InferenceConfig
from cellsemi.models.cellpose_sam.fit_and_predict import CellposePredictor
from cellsemi.models.cellpose_sam.parts import CellposeNet, cellpose_pixels
from cellsemi.models.flow.recovery import flow_errors
from cellsemi.models.flow.targets import diffusion_flows
from cellsemi.rounds.cells import masks

ALL_VIEWS = ("identity", "flip_x", "flip_y", "rot90", "rot180", "rot270")


class Says(nn.Module):
    """A network that says what a function says of the images."""

    def __init__(self, say: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.out, self.ps, self.say = nn.Conv2d(1, 1, 1), 8, say

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.say(x), torch.zeros(len(x), 256)


def predictor_of(
    say: Callable[[Tensor], Tensor], bsize: int, flow_threshold: float = 0.0, **inference: Any
) -> CellposePredictor:
    inference = {"tta": ("identity",), "cell_probability": 0.5, "min_area_px": 15, **inference}
    return CellposePredictor(
        CellposeNet(Says(say), 1), InferenceConfig(**inference), torch.device("cpu"),
        bsize=bsize, flow_threshold=flow_threshold, one_class_per_image=False,
    )  # fmt: skip


def noisy_field() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cellpose's raw flow (2, 128, 128) and cell logit of 16 discs, the flow of the last four turned by 70 degrees."""
    rng = np.random.default_rng(3)
    labels = np.zeros((128, 128), np.int32)
    yy, xx = np.mgrid[:128, :128]
    for i in range(16):
        y, x = 16 + 32 * (i // 4), 16 + 32 * (i % 4)
        labels[((yy - y) / 14) ** 2 + ((xx - x) / 11) ** 2 < 1] = i + 1
    flow = diffusion_flows(labels) + rng.normal(0, 0.05, (2, 128, 128)).astype(np.float32)
    turned = np.stack([0.34 * flow[0] - 0.94 * flow[1], 0.94 * flow[0] + 0.34 * flow[1]])
    logit = np.where(labels > 0, 2.0, -2.0) + rng.normal(0, 0.3, labels.shape)
    return np.where(labels > 12, turned, flow).astype(np.float32) * 5, logit.astype(np.float32)


@pytest.mark.parametrize("flow_threshold", [0.0, 0.4])
def test_the_masks_are_those_of_cellpose(flow_threshold: float) -> None:
    flow, logit = noisy_field()
    raw = torch.from_numpy(np.concatenate([flow, logit[None]]))[None]
    (found,) = predictor_of(lambda _: raw, 128, flow_threshold).predict([np.zeros((128, 128), np.uint8)])
    with torch.sparse.check_sparse_tensor_invariants(False):
        theirs = dynamics.compute_masks(flow, logit, flow_threshold=flow_threshold, min_size=15)
    expected = masks.from_label_map(theirs.astype(np.int32))
    assert len(found) == len(expected) == (12 if flow_threshold else 16)
    iou = masks.iou_matrix(expected, found)
    assert (iou.max(1) > 0.95).all() and (iou.max(0) > 0.95).all()


def test_the_flow_error_is_that_of_cellpose() -> None:
    flow, logit = noisy_field()
    with torch.sparse.check_sparse_tensor_invariants(False):
        labels = dynamics.compute_masks(flow, logit, flow_threshold=0).astype(np.int32)
    expected, _ = dynamics.flow_error(labels, flow, device=torch.device("cpu"))
    np.testing.assert_allclose(flow_errors(labels, flow / 5, "diffusion"), expected, rtol=1e-4)


def slope(x: Tensor) -> Tensor:
    """The gradient of the first channel as flow, the channel as cell logit: what turns with the image."""
    pad = nn.functional.pad(x[:, :1], (1, 1, 1, 1), mode="replicate")
    down, right = pad[:, :, 2:, 1:-1] - pad[:, :, :-2, 1:-1], pad[:, :, 1:-1, 2:] - pad[:, :, 1:-1, :-2]
    return torch.cat([down, right, x[:, :1]], 1)


def test_views_are_turned_back_with_their_vectors() -> None:
    image = (np.random.default_rng(0).random((64, 64)) * 255).astype(np.uint8)
    one, no_spread = predictor_of(slope, 64).outputs(image)
    six, spread = predictor_of(slope, 64, tta=ALL_VIEWS).outputs(image)
    assert not no_spread.any()
    np.testing.assert_allclose(six, one, atol=1e-5)
    np.testing.assert_allclose(spread, 0, atol=1e-3)
    expected = slope(torch.from_numpy(np.moveaxis(cellpose_pixels(image), -1, 0))[None])[0, :2]
    np.testing.assert_allclose(one[1:3] * 5, expected, atol=1e-6)


def test_scales_keep_the_direction_of_the_vectors() -> None:
    yy, xx = np.mgrid[:60, :60]
    image = (100 + 80 * np.cos(yy / 9) * np.cos(xx / 11)).astype(np.float32)

    def say(x: Tensor) -> Tensor:
        raw = slope(x)
        return torch.cat([5 * raw[:, :2] / raw[:, :2].norm(dim=1, keepdim=True).clamp(min=1e-6), raw[:, 2:]], 1)

    one, _ = predictor_of(say, 256).outputs(image)
    scaled, spread = predictor_of(say, 256, scales=(0.8, 1.0, 2.0)).outputs(image)
    assert scaled.shape == one.shape and 0 < spread.mean() < 0.02
    inner = (slice(1, 3), slice(5, -5), slice(5, -5))
    assert (one[inner] * scaled[inner]).sum(0).mean() > 0.97


@pytest.mark.parametrize(
    "inference",
    [
        {},
        {"tile_px": (90, 80), "stride_px": (31, 40)},
        {"grid": GridConfig(rows=4, columns=4, window_rows=2, window_columns=2)},
    ],
)
def test_the_network_sees_tiles_of_one_size(inference: dict[str, Any]) -> None:
    shapes: set[tuple[int, ...]] = set()

    def say(x: Tensor) -> Tensor:
        shapes.add(tuple(x.shape[1:]))
        return torch.cat([x[:, :1], 2 * x[:, :1], x[:, :1]], 1)

    image = (np.random.default_rng(0).random((150, 100)) * 255).astype(np.uint8)
    outputs, _ = predictor_of(say, 64, **inference).outputs(image)
    assert shapes == {(3, 64, 64)}
    expected = cellpose_pixels(image)[..., 0]
    np.testing.assert_allclose(outputs[1], expected / 5, atol=1e-5)
    np.testing.assert_allclose(outputs[2], 2 * expected / 5, atol=1e-5)
    np.testing.assert_allclose(outputs[0], 1 / (1 + np.exp(-expected)), atol=1e-5)
