"""Cellpose-SAM's weights, images and loss, against cellpose's own functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cellpose import transforms
from cellpose.train import _loss_fn_seg
from helpers.flow_batches import as_batch
from helpers.pictures import quiet
from helpers.tiny_cellpose import SIDE, TRAINING, Tiny, discs, record, task_in, tiny_file
from torch import Tensor, nn

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import CellposeSamConfig
from cellsemi.configs.phases import AugmentConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models import weight_files
from cellsemi.models.cellpose_sam import parts
from cellsemi.models.cellpose_sam.family import FAMILY
from cellsemi.models.cellpose_sam.fit_and_predict import pretrained
from cellsemi.models.cellpose_sam.parts import CellposeCrops, cellpose_loss, cellpose_pixels
from cellsemi.models.flow.batch import FlowBatch
from cellsemi.models.flow.targets import diffusion_flows
from cellsemi.models.model_files import CellSize

REAL = parts.build_net


def test_a_missing_file_is_an_error_and_never_the_stock_model(tmp_path: Path) -> None:
    for name in ("cpsam", "cpsam_v2", str(tmp_path / "none.pth")):
        model = CellposeSamConfig(name="m", weights=name, bsize=SIDE)
        with pytest.raises(ModelError, match="nothing is downloaded"):
            pretrained(model, InferenceConfig(), "cpu")
        with pytest.raises(ModelError, match="nothing is downloaded"):
            FAMILY.fit(task_in(tmp_path, [record(0)], model=model), quiet)


def test_weights_are_verified_and_taken_as_they_are(tmp_path: Path) -> None:
    path = tiny_file(tmp_path)
    entry = weight_files.add(path, "tiny")
    model = CellposeSamConfig(name="m", weights="tiny", weights_sha256=entry.sha256, bsize=SIDE)
    assert len(pretrained(model, InferenceConfig(), "cpu").predict([discs(0)[0]])) >= 0
    with pytest.raises(ModelError, match="stated"):
        pretrained(model.model_copy(update={"weights_sha256": "0" * 64}), InferenceConfig(), "cpu")
    net, unused = parts.load_net({**torch.load(path), "extra": torch.zeros(1)}, SIDE, "x")
    assert unused == ["extra"]
    expected = torch.load(path)
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
    assert {name for name, _ in net.named_buffers()} == {"diam_mean", "W2"}  # not trained, whatever asks for it


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {k: v for k, v in state.items() if k != "W2"}, "1 of its 7 tensors are missing"),
        (lambda state: {"encoder.cls_token": torch.zeros(1)}, "CPDINO"),
        (lambda state: {**state, "pos_embed": torch.zeros(1, 32, 32, 1)}, "bsize 256"),
    ],
)
def test_other_weights_are_refused(change: Callable[[dict[str, Tensor]], dict[str, Tensor]], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        parts.load_net(change(Tiny(SIDE).state_dict()), SIDE, "file.pth")


def test_the_real_network_is_built_without_touching_how_others_compute() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    with torch.device("meta"):
        net = REAL(256)
    assert torch.backends.cuda.matmul.allow_tf32 == before
    fixed = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    assert fixed == {"diam_labels", "diam_mean", "W2"}
    assert isinstance(net.out, nn.Conv2d) and net.ps == 8
    with pytest.raises(ModelError, match="64, 128, 256, 512"):
        REAL(192)


def test_images_are_scaled_as_cellpose_scales_them() -> None:
    rng = np.random.default_rng(0)
    colour = (rng.gamma(2, 40, (70, 50, 3))).clip(0, 255).astype(np.uint8)
    colour[..., 2] = 9  # nothing in this channel
    np.testing.assert_allclose(cellpose_pixels(colour), transforms.normalize_img(colour.copy()), atol=1e-5)
    grey = colour[..., 0].astype(np.uint16) * 100
    expected = transforms.normalize_img(transforms.convert_image(grey))
    np.testing.assert_allclose(cellpose_pixels(grey)[..., :1], expected, atol=1e-5)
    assert not cellpose_pixels(grey)[..., 1:].any() and not cellpose_pixels(np.full((4, 5), 7, np.uint8)).any()
    spot = np.zeros((100, 100), np.float32)
    spot[50, 50:52] = 9
    assert cellpose_pixels(spot)[50, 50, 0] == 1 and cellpose_pixels(spot).sum() == 2
    spot[0, 0] = np.nan
    assert np.isfinite(cellpose_pixels(spot)).all()


def test_training_crops_are_scaled_by_their_whole_image(tmp_path: Path) -> None:
    task = task_in(tmp_path, [record(0)], training=TRAINING.model_copy(update={"batch": 12}))
    still = AugmentConfig(scale_min=1, scale_max=1, rotate=False, flip=False, brightness=0, blur=0, noise=0)
    source = CellposeCrops.of(task, still, CellSize(), channels=3, crop_px=32)
    whole = np.clip(cellpose_pixels(discs(0)[0]), 0, 1)
    compared = 0
    for crop in source(0):
        assert crop.pixels.shape == (32, 32, 3) and not crop.pixels[..., 1:].any()
        if (crop.instance_map < 0).any():
            continue
        windows = np.lib.stride_tricks.sliding_window_view(whole[..., 0], (32, 32))
        assert np.abs(windows - crop.pixels[..., 0]).max((2, 3)).min() < 1e-6
        compared += 1
    assert compared


def some_batch(**changes: Any) -> FlowBatch:
    rng = np.random.default_rng(1)
    labels = np.stack([discs(seed, 64)[1] for seed in (0, 1)])
    arrays: dict[str, Any] = {
        "images": rng.random((2, 3, 64, 64), np.float32),
        "inside": (labels > 0).astype(np.float32),
        "flow": np.stack([diffusion_flows(map_) for map_ in labels]),
        "class_id": (labels % 2).astype(np.int64),
        "weight": np.ones((2, 64, 64), np.float32),
    }
    return as_batch(**{**arrays, **changes})


def test_the_loss_is_cellposes_own() -> None:
    batch = some_batch()
    raw = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs = torch.cat([raw[:, 1:] * 5, raw[:, :1]], 1)
    target = torch.cat([batch.inside[:, None], batch.flow], 1)
    expected = _loss_fn_seg(target, theirs, torch.device("cpu"))
    torch.testing.assert_close(cellpose_loss(raw, batch).total, expected)


def test_ignored_pixels_change_no_gradient_and_weights_do() -> None:
    weight = np.ones((2, 64, 64), np.float32)
    weight[0, :30], weight[1, :, 40:] = 0, 0.5
    batch = some_batch(weight=weight)
    raw = torch.randn(2, 5, 64, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    cellpose_loss(raw, batch).total.backward()
    assert raw.grad is not None and not raw.grad[0, :, :30].any() and (raw.grad[0, 0, 30:] != 0).all()
    other = some_batch(weight=weight)
    other.inside[0, :30], other.flow[0, :, :30], other.class_id[0, :30] = 1, 9, 0
    assert torch.equal(cellpose_loss(raw, other).total, cellpose_loss(raw, batch).total)
    equal = some_batch(weight=np.full_like(weight, 0.5))
    torch.testing.assert_close(cellpose_loss(raw, equal).total, cellpose_loss(raw, some_batch()).total)
    assert cellpose_loss(raw, some_batch(weight=np.zeros_like(weight))).total == 0
