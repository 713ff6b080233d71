"""What Detectron2's networks start from: its own files, those of cellsemi, and a ResNet trained on ImageNet."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import pictures
from helpers.detectron2_small import SMALL, make_small
from helpers.pictures import discs, quiet, record
from safetensors.torch import save_file

from cellsemi.configs.errors import ModelError
from cellsemi.configs.training import InferenceConfig, TrainingConfig
from cellsemi.models.detectron2_maskrcnn.family import FAMILY
from cellsemi.models.detectron2_maskrcnn.names import detectron2_name
from cellsemi.models.detectron2_maskrcnn.net import BACKBONE, build
from cellsemi.models.detectron2_maskrcnn.weights import is_scratch, start, start_from
from cellsemi.models.model_files import WEIGHTS_FILE, StartWeights, read_model_file
from cellsemi.models.start_weights import find_given
from cellsemi.models.training.device import compute_settings
from cellsemi.models.weight_files import HOME_VARIABLE
from cellsemi.rounds.store import files

TRAINING = TrainingConfig(batch=2, crop_px=64, lr=1e-9, ema=0.0, precision="float32")
task_in = partial(pictures.task_in, model=SMALL, training=TRAINING)
ONE_VIEW = InferenceConfig(tta=("identity",))


@pytest.fixture(autouse=True, scope="module")
def small_networks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, compute_settings(1):
        make_small(patch)
        patch.setenv(HOME_VARIABLE, str(tmp_path_factory.mktemp("home")))
        yield


def given_state(classes: int = 2, **changes: Any) -> dict[str, torch.Tensor]:
    return dict(build(SMALL.model_copy(update=changes), classes, seed=7, scratch=False).state_dict())


def pickled(state: dict[str, torch.Tensor], path: Path, protocol: int = 2) -> str:
    arrays = {name: value.numpy() for name, value in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}, protocol))
    return files.sha256_bytes(path.read_bytes())


def started(path: Path, sha256: str | None = None, **changes: Any) -> tuple[StartWeights, dict[str, torch.Tensor]]:
    config = SMALL.model_copy(update={"weights": str(path), **changes})
    given = find_given(str(path), sha256)
    tensors = given.tensors()
    net = build(config, 2, seed=0, scratch=is_scratch(tensors))
    task = task_in(path.parent / "task", [record(0)], 1, model=config)
    return start(net, given, tensors, task), dict(net.state_dict())


@pytest.mark.parametrize("kind", ["pth", "safetensors", "pkl"])
def test_files_of_its_own_names_are_the_start(kind: str, tmp_path: Path) -> None:
    state, path, sha256 = given_state(), tmp_path / f"w.{kind}", None
    old = state | {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)}
    if kind == "pth":
        torch.save({"model": old, "iteration": 7}, path)
    elif kind == "safetensors":
        save_file(old, path)
    else:
        sha256 = pickled(old, path)
    about, found = started(path, sha256)
    assert about.random == () and about.sha256 == files.sha256_bytes(path.read_bytes())
    assert found.keys() == state.keys() and all(torch.equal(value, found[name]) for name, value in state.items())


@pytest.mark.parametrize("cascade", [False, True])
def test_the_last_layers_of_another_number_of_classes_start_at_random_and_are_listed(
    cascade: bool, tmp_path: Path
) -> None:
    state, path = given_state(80, cascade=cascade), tmp_path / "w.safetensors"
    save_file(state, path)
    about, found = started(path, cascade=cascade)
    first, boxes = ("box_predictor.0", []) if cascade else ("box_predictor", ["bbox_pred"])
    expected = {f"roi_heads.{first}.{layer}.weight" for layer in ("cls_score", *boxes)}
    assert expected | {"roi_heads.mask_head.predictor.bias"} <= set(about.random)
    assert all(torch.equal(value, found[name]) for name, value in state.items() if name not in about.random)
    assert len(about.random) == (8 if cascade else 6)


def test_a_pickle_is_read_only_with_its_sha256_stated(tmp_path: Path) -> None:
    sha256 = pickled(given_state(), tmp_path / "w.pkl")
    with pytest.raises(ModelError, match=f"weights_sha256: {sha256}"):
        started(tmp_path / "w.pkl")
    with pytest.raises(ModelError, match="another file or was altered"):
        started(tmp_path / "w.pkl", "0" * 64)


def caffe2_state(seed: int = 3) -> dict[str, torch.Tensor]:
    """The backbone of a network with other weights, under the names of R-50.pkl, and what such a file has besides."""
    names = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    values = {"norm.weight": "bn_gamma", "norm.bias": "bn_beta", "norm.running_mean": "bn_running_mean",
              "norm.running_var": "bn_running_var", "weight": "w"}  # fmt: skip
    found = {"conv1_b": torch.zeros(64), "fc1000_w": torch.zeros(1000, 512), "fc1000_b": torch.zeros(1000)}
    for path, value in build(SMALL, 1, seed, scratch=False).backbone.bottom_up.state_dict().items():
        *places, layer = path.split(".norm.")[0].removesuffix(".weight").split(".")
        what = path.removeprefix(".".join([*places, layer]) + ".")
        stem = "conv1" if what == "weight" else "res_conv1"
        found[f"{stem if places == ['stem'] else '_'.join([*places, names[layer]])}_{values[what]}"] = value
    return found


def test_a_resnet_trained_on_imagenet_is_the_backbone_and_all_else_is_new(tmp_path: Path) -> None:
    state, path = caffe2_state(), tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({name: value.numpy() for name, value in state.items()}, 2))
    about, found = started(path, files.sha256_bytes(path.read_bytes()))
    for name, value in state.items():
        if (own := detectron2_name(name)) is not None:
            assert torch.equal(found[f"{BACKBONE}.{own}"], value), name
    assert set(about.random) == {name for name in found if not name.startswith(f"{BACKBONE}.")}
    assert about.loaded == len(found) - len(about.random) and set(about.unused) == {"conv1_b", "fc1000_w", "fc1000_b"}
    assert "start anew (backbone.fpn_lateral" in about.sentence() and "proposal_generator.rpn_head" in about.sentence()
    del state["res3_0_branch2a_w"]
    net = build(SMALL, 2, seed=0, scratch=False)
    with pytest.raises(ModelError, match=r"bottom_up\.res3\.0\.conv1\.weight missing"):
        start_from(net, state, path)


def test_the_names_of_caffe2_are_those_that_detectron2_takes_them_for() -> None:
    from detectron2.checkpoint.c2_model_loading import convert_basic_c2_names

    known = [name for name in caffe2_state() if detectron2_name(name) is not None]
    assert list(map(detectron2_name, known)) == convert_basic_c2_names(known) and len(known) > 80


def test_torchvision_s_resnet_is_refused_here(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    save_file(resnet18().state_dict(), tmp_path / "resnet18.safetensors")
    with pytest.raises(ModelError, match=r"not the weights of this model.*R-50\.pkl \(MSRA\)"):
        started(tmp_path / "resnet18.safetensors")


@pytest.mark.parametrize("alone", [False, True])
def test_a_model_of_an_earlier_run_is_the_start_in_its_own_variant(alone: bool, tmp_path: Path) -> None:
    first = task_in(tmp_path / "first", [record(0)], 1)
    FAMILY.fit(first, quiet)
    weights = Path(first.out_dir)
    if alone:
        weights = tmp_path / "moved.safetensors"
        weights.write_bytes((Path(first.out_dir) / WEIGHTS_FILE).read_bytes())
    second = task_in(tmp_path / "second", [record(0)], 1, model=SMALL.model_copy(update={"weights": str(weights)}))
    FAMILY.fit(second, quiet)
    before, after = (find_given(task.out_dir).tensors() for task in (first, second))
    assert before.keys() == after.keys() and any("fpn_lateral2.norm" in name for name in after)
    assert all(torch.allclose(value, after[name], atol=1e-5) for name, value in before.items())
    about = read_model_file(Path(second.out_dir)).started_from
    assert about is not None and about.random == () and about.loaded == len(before)
    assert len(FAMILY.load(Path(second.out_dir), ONE_VIEW, "cpu").predict([discs(0)[0]])) == 1


def test_an_earlier_model_of_other_classes_is_refused_by_name(tmp_path: Path) -> None:
    first = task_in(tmp_path / "first", [record(0)], 1, classes=("a", "b"))
    FAMILY.fit(first, quiet)
    again = SMALL.model_copy(update={"weights": first.out_dir})
    with pytest.raises(ModelError, match="its classes are a, b, the run's are b, a"):
        FAMILY.fit(task_in(tmp_path / "second", [record(0)], 1, model=again, classes=("b", "a")), quiet)


def test_weights_of_another_network_are_refused() -> None:
    net, state, path = build(SMALL, 2, seed=0, scratch=False), given_state(), Path("w.pth")
    start_from(net, state, path)
    fewer = {name: value for name, value in state.items() if name != "backbone.fpn_lateral2.weight"}
    with pytest.raises(ModelError, match=r"fpn_lateral2\.weight missing"):
        start_from(net, fewer, path)
    norms = {name: value for name, value in state.items() if not name.endswith("running_var")}
    with pytest.raises(ModelError, match=r"running_var.* missing"):
        start_from(net, norms, path)
    with pytest.raises(ModelError, match="extra unexpected"):
        start_from(net, state | {"extra": torch.zeros(1)}, path)
    with pytest.raises(
        ModelError, match=r"fpn_lateral2\.weight \(\[1\] given, \[64, 64, 1, 1\] wanted\) of another shape"
    ):
        start_from(net, state | {"backbone.fpn_lateral2.weight": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="cascade: true"):
        start_from(net, given_state(cascade=True), path)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ModelError, match="pixel_mean"):
        start_from(net, state | {"pixel_mean": torch.tensor([0.4, 0.5, 0.5]).view(3, 1, 1)}, path)
    anchors = {"proposal_generator.anchor_generator.cell_anchors.0": torch.tensor([[-64.0, -64, 64, 64]])}
    with pytest.raises(ModelError, match="cell_anchors"):
        start_from(net, state | anchors, path)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
