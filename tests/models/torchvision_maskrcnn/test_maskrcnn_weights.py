"""What Mask R-CNN starts from beside finished detectors: a ResNet trained on ImageNet, and its own earlier models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import pictures
from helpers.pictures import discs, quiet, record
from helpers.small_maskrcnn import small
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18, resnet34

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import MaskRcnnConfig
from cellsemi.configs.training import InferenceConfig, TrainingConfig
from cellsemi.models.base import FitTask
from cellsemi.models.model_files import WEIGHTS_FILE, StartWeights, read_model_file
from cellsemi.models.registry import load_predictor
from cellsemi.models.torchvision_maskrcnn.family import FAMILY
from cellsemi.models.torchvision_maskrcnn.net import BACKBONE
from cellsemi.models.weight_files import HOME_VARIABLE

TRAINING = TrainingConfig(batch=2, crop_px=64, lr=1e-9, ema=0.0, precision="float32", threads=1)
task_in = partial(pictures.task_in, training=TRAINING)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))


def fitted(folder: Path, model: MaskRcnnConfig, **changes: Any) -> tuple[FitTask, StartWeights | None]:
    task = task_in(folder, [record(0)], 1, model=model, **changes)
    FAMILY.fit(task, quiet)
    return task, read_model_file(Path(task.out_dir)).started_from


def tensors(task: FitTask) -> dict[str, torch.Tensor]:
    return load_file(Path(task.out_dir) / WEIGHTS_FILE)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet18-cbam"])
def test_a_resnet_trained_on_imagenet_is_the_backbone_and_all_else_is_new(backbone: Any, tmp_path: Path) -> None:
    given = resnet18().state_dict()
    torch.save({"model_state_dict": given, "epoch": 90}, tmp_path / "resnet18.pth")
    task, start = fitted(tmp_path, small(backbone=backbone, weights=str(tmp_path / "resnet18.pth")))
    found = tensors(task)
    learnt = [name for name in given if not name.startswith("fc.") and "running" not in name and "batches" not in name]
    assert all(torch.allclose(found[f"{BACKBONE}.{name}"], given[name], atol=1e-5) for name in learnt)
    assert start is not None and set(start.unused) == {"fc.weight", "fc.bias"}
    attention = {name for name in found if ".channel." in name or ".spatial." in name}
    assert set(start.random) == {name for name in found if not name.startswith(f"{BACKBONE}.")} | attention
    assert bool(attention) == (backbone == "resnet18-cbam")
    frozen = torch.equal(found[f"{BACKBONE}.bn1.running_mean"], given["bn1.running_mean"])
    assert frozen == (backbone == "resnet18"), "its statistics stay as they came, where nothing new is between"
    assert start.sentence().endswith("mask_predictor, rpn.head); 2 of the file are not used (fc)")
    (cells,) = load_predictor(Path(task.out_dir), InferenceConfig(tta=("identity",)), "cpu").predict([discs(0)[0]])
    assert cells.height == 72


def test_another_resnet_is_refused(tmp_path: Path) -> None:
    save_file(resnet34().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"layer1\.2\.\S+ .*unexpected; check that model\.backbone"):
        fitted(tmp_path, small(weights=str(tmp_path / "w.safetensors")))


@pytest.mark.parametrize("alone", [False, True])
def test_a_model_of_an_earlier_run_is_the_start_in_its_own_form(alone: bool, tmp_path: Path) -> None:
    first, _ = fitted(tmp_path / "first", small(mask_hidden=16, centre_head=True))
    weights = Path(first.out_dir)
    if alone:
        weights = tmp_path / "moved.safetensors"
        weights.write_bytes((Path(first.out_dir) / WEIGHTS_FILE).read_bytes())
    second, start = fitted(tmp_path / "second", small(mask_hidden=16, centre_head=True, weights=str(weights)))
    before, after = tensors(first), tensors(second)
    assert before.keys() == after.keys() and f"{BACKBONE}.bn1.num_batches_tracked" in after
    learnt = [name for name in before if "running" not in name and "batches" not in name]
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in learnt)
    assert start is not None and start.random == () and start.loaded == len(after)
    assert load_predictor(Path(second.out_dir), InferenceConfig(tta=("identity",)), "cpu").predict([discs(0)[0]])


def test_what_does_not_fit_an_earlier_model_is_named(tmp_path: Path) -> None:
    first, _ = fitted(tmp_path / "first", small(), classes=("a", "b"))
    wide = small(weights=first.out_dir, box_hidden=64)
    with pytest.raises(ModelError, match=r"of another shape; .*box_hidden is 32 there and 64 here"):
        fitted(tmp_path / "wide", wide, classes=("a", "b"))
    with pytest.raises(ModelError, match="its classes are a, b, the run's are b, a"):
        fitted(tmp_path / "turned", small(weights=first.out_dir), classes=("b", "a"))
