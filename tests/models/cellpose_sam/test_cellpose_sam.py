"""Cellpose-SAM with a tiny network in its place, against cellpose's own functions; the real one once, marked slow."""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from cellpose import dynamics, transforms
from cellpose import models as stock
from cellpose import utils as stock_utils
from cellpose.train import _loss_fn_seg
from helpers import pictures
from helpers.model_folder import UNET, write_model
from helpers.pictures import FOUR, quiet
from helpers.tiny_cellpose import SIDE, Tiny, tiny_file
from numpy.typing import NDArray
from torch import Tensor, nn

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import AugmentConfig, CellposeSamConfig
from cellsemi.configs.training import GridConfig, InferenceConfig, TrainingConfig
from cellsemi.models import weight_files
from cellsemi.models.base import FitTask
from cellsemi.models.cellpose_sam import parts
from cellsemi.models.cellpose_sam.export import export_cellpose
from cellsemi.models.cellpose_sam.family import FAMILY
from cellsemi.models.cellpose_sam.fit_and_predict import CellposePredictor, pretrained
from cellsemi.models.cellpose_sam.parts import CellposeCrops, CellposeNet, cellpose_loss, cellpose_pixels
from cellsemi.models.flow.batch import FlowBatch
from cellsemi.models.flow.targets import diffusion_flows
from cellsemi.models.model_files import read_model_file
from cellsemi.models.training.result import LOSS_FILE
from cellsemi.rounds.cells import masks
from cellsemi.rounds.store.schemas import ImageRecord

REAL = parts.build_net
ALL_VIEWS = ("identity", "flip_x", "flip_y", "rot90", "rot180", "rot270")
TRAINING = TrainingConfig(
    steps=40, batch=2, lr=2e-2, schedule="constant", ema=0, checkpoint_every=5, precision="float32"
)
discs, record = partial(pictures.discs, layout=FOUR), partial(pictures.record, layout=FOUR)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tiny instead of the network; an empty registry; nothing that fetches may be reached."""

    def fetched(*_: Any, **__: Any) -> None:
        raise AssertionError("something was about to be downloaded")

    monkeypatch.setenv(weight_files.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setattr(stock, "cache_model_path", fetched)
    monkeypatch.setattr(stock_utils, "download_url_to_file", fetched)
    monkeypatch.setattr(urllib.request, "urlopen", fetched)
    torch.set_num_threads(1)
    monkeypatch.setattr(parts, "build_net", Tiny)


def task_in(folder: Path, records: list[ImageRecord], **changes: Any) -> FitTask:
    model = CellposeSamConfig(name="m", weights=str(tiny_file(folder)), bsize=SIDE)
    return pictures.task_in(
        folder, records, **{"model": model, "training": TRAINING, "classes": ("a",), "ignore_dilation_px": 0, **changes}
    )


# --- weights ------------------------------------------------------------------------------------------


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


# --- images and loss ----------------------------------------------------------------------------------


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
    source = CellposeCrops.of(task, still, channels=3, crop_px=32)
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
    batch = FlowBatch(
        images=rng.random((2, 3, 64, 64), np.float32),
        inside=(labels > 0).astype(np.float32),
        flow=np.stack([diffusion_flows(map_) for map_ in labels]),
        class_id=(labels % 2).astype(np.int64),
        weight=np.ones((2, 64, 64), np.float32),
    )
    return replace(batch, **changes)


def test_the_loss_is_cellposes_own() -> None:
    batch = some_batch()
    raw = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs = torch.cat([raw[:, 1:] * 5, raw[:, :1]], 1)
    target = torch.from_numpy(np.concatenate([batch.inside[:, None], batch.flow], 1))
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


# --- fit and load -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "build_net", Tiny)
        task = task_in(folder, [record(i) for i in range(3)], classes=("a", "b"))
        assert isinstance(task.model, CellposeSamConfig)
        task = replace(task, model=task.model.model_copy(update={"flow_threshold": 0.0}))
        result = FAMILY.fit(task, quiet)
    assert result.steps == 40 and result.parameters > 9000
    return folder / "out"


def test_every_part_of_the_loss_falls_and_the_start_is_recorded(trained: Path) -> None:
    loss = pq.read_table(trained / LOSS_FILE)
    for name in ("loss", "prob_loss", "flow_loss", "class_loss"):
        values = loss[name].to_numpy()
        assert values[-8:].mean() < 0.9 * values[:3].mean(), name
    about = read_model_file(trained)
    assert isinstance(about.model, CellposeSamConfig) and about.model.bsize == SIDE
    assert about.started_from is not None
    assert len(about.started_from.sha256) == 64 and about.started_from.unused == ()


def test_a_checkpoint_of_other_start_weights_is_not_continued(tmp_path: Path) -> None:
    task = task_in(tmp_path, [record(0)], steps=12)

    def interrupt(step: int, steps: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FAMILY.fit(task, interrupt)
    torch.manual_seed(6)
    torch.save(Tiny(SIDE).state_dict(), tmp_path / "tiny.pth")
    assert FAMILY.fit(task, quiet).resumed_at == 0


def test_the_first_stage_trains_the_class_head_alone(tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"frozen_steps": 4, "steps": 4})
    task = task_in(tmp_path, [record(0)], steps=4, training=training, classes=("a", "b"))
    start = torch.load(tmp_path / "tiny.pth")
    FAMILY.fit(task, quiet)
    export_cellpose(tmp_path / "out", tmp_path / "stage1.pth")
    frozen = torch.load(tmp_path / "stage1.pth")
    assert all(torch.equal(value, start[name]) for name, value in frozen.items())
    FAMILY.fit(replace(task, steps=8, out_dir=str(tmp_path / "both")), quiet)
    export_cellpose(tmp_path / "both", tmp_path / "stage2.pth")
    both = torch.load(tmp_path / "stage2.pth")
    assert {name for name in both if not torch.equal(both[name], start[name])} == {
        "pos_embed", "stem.weight", "stem.bias", "out.weight", "out.bias",
    }  # fmt: skip


def test_the_network_has_the_backbones_rate_with_one_class_too(tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"frozen_steps": 2, "backbone_lr": 1e-12})
    task = task_in(tmp_path, [record(0)], steps=4, training=training)
    start = torch.load(tmp_path / "tiny.pth")
    changes = []
    for rate in (1e-12, None):
        given = training.model_copy(update={"backbone_lr": rate})
        FAMILY.fit(replace(task, training=given), quiet)
        export_cellpose(tmp_path / "out", tmp_path / "after.pth")
        after = torch.load(tmp_path / "after.pth")
        changes.append(float((after["out.weight"] - start["out.weight"]).abs().max()))
    assert changes[0] < 1e-8 and changes[1] > 1e-2


def test_the_export_is_the_network_alone_and_can_be_started_from(trained: Path, tmp_path: Path) -> None:
    left = export_cellpose(trained, tmp_path / "cellpose.pth")
    assert left and all(name.startswith("classes.") for name in left)
    exported = torch.load(tmp_path / "cellpose.pth", weights_only=True)
    assert list(exported) != [] and set(exported) == set(Tiny(SIDE).state_dict())
    Tiny(SIDE).load_state_dict(exported)
    one = task_in(tmp_path, [record(0)], steps=1)
    assert isinstance(one.model, CellposeSamConfig)
    FAMILY.fit(replace(one, model=one.model.model_copy(update={"weights": str(tmp_path / "cellpose.pth")})), quiet)
    assert export_cellpose(tmp_path / "out", tmp_path / "again.pth") == []
    (tmp_path / "other").mkdir()
    write_model(tmp_path / "other", UNET, b"")
    with pytest.raises(ModelError, match="kind flow-unet"):
        export_cellpose(tmp_path / "other", tmp_path / "never.pth")
    assert not (tmp_path / "never.pth").exists()


# --- prediction ---------------------------------------------------------------------------------------


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
    np.testing.assert_allclose(parts.flow_errors(labels, flow / 5), expected, rtol=1e-4)


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


# --- the real network ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_real_network_is_fine_tuned_and_opened_by_stock_cellpose(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "build_net", REAL)
    torch.manual_seed(0)
    path = tmp_path / "random.pth"
    torch.save(REAL(256).state_dict(), path)
    torch.set_num_threads(2)
    training = TRAINING.model_copy(update={"batch": 1, "lr": 1e-5, "weight_decay": 0.1, "threads": 2})
    task = task_in(
        tmp_path, [record(0)], steps=1, training=training, classes=("a", "b"),
        model=CellposeSamConfig(name="m", weights=str(path)),
    )  # fmt: skip
    result = FAMILY.fit(task, quiet)
    assert result.parameters > 304_000_000 and np.isfinite(result.loss)
    path.unlink()
    export_cellpose(tmp_path / "out", tmp_path / "cellpose.pth")
    with caplog.at_level(logging.WARNING, logger="cellpose"):
        model = stock.CellposeModel(pretrained_model=str(tmp_path / "cellpose.pth"), gpu=False, use_bfloat16=False)
    assert not caplog.records and model.pretrained_model == str(tmp_path / "cellpose.pth")
    ours = FAMILY.load(tmp_path / "out", InferenceConfig(tta=("identity",), threads=2), "cpu")
    for name, value in model.net.state_dict().items():
        assert torch.equal(value, ours._net.state_dict()[f"net.{name}"]), name
    image = discs(0)[0]
    outputs, _ = ours.outputs(image)
    tile = np.pad(cellpose_pixels(image), ((0, 184), (0, 184), (0, 0)), mode="symmetric")
    with torch.inference_mode():
        raw = model.net.eval()(torch.from_numpy(np.moveaxis(tile, -1, 0).copy())[None])[0][0, :, :72, :72].numpy()
    np.testing.assert_allclose(outputs[1:3], raw[:2] / 5, atol=1e-4)
    np.testing.assert_allclose(outputs[0], 1 / (1 + np.exp(-raw[2])), atol=1e-4)
