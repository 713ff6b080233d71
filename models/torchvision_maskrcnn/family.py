"""Describes `torchvision-maskrcnn`: Mask R-CNN of torchvision's parts (systems B, D and E of docs/models.md)."""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.models import MaskRcnnConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import (
    Family,
    FitResult,
    FitTask,
    ModelVariant,
    Predictor,
    Progress,
    Recognised,
    Shapes,
)


def _fit(task: FitTask, progress: Progress) -> FitResult:
    from cellsemi.models.torchvision_maskrcnn.fit_and_predict import fit

    return fit(task, progress)


def _take(task: FitTask) -> FitResult:
    from cellsemi.models.torchvision_maskrcnn.fit_and_predict import take

    return take(task)


def _load(folder: Path, inference: InferenceConfig, device: str) -> Predictor:
    from cellsemi.models.torchvision_maskrcnn.fit_and_predict import load

    return load(folder, inference, device)


RESNETS = {  # blocks of the third stage, and whether they are deep: the name, and the backbones that begin with it
    (2, False): ("ResNet-18", "resnet18"),
    (6, True): ("ResNet-50", "resnet50"),
}
BODY = "backbone.body."


def _recognise(shapes: Shapes) -> Recognised | None:
    scores = shapes.get("roi_heads.box_predictor.cls_score.weight")
    alone = "conv1.weight" in shapes and "layer1.0.conv1.weight" in shapes
    prefix = "" if alone else BODY
    blocks = sum(name.startswith(f"{prefix}layer3.") and name.endswith(".conv1.weight") for name in shapes)
    found = RESNETS.get((blocks, f"{prefix}layer3.0.conv3.weight" in shapes))
    if found is None or not (alone or scores):
        return None
    name, backbone = found
    if alone:
        what = f"a {name} without a detector: FPN, RPN and heads start anew"
        return Recognised(what, None, {"backbone": backbone})
    if "backbone.fpn.inner_blocks.0.1.weight" in shapes:
        backbone += "-v2"
    elif f"{BODY}layer1.2.channel.shared.0.weight" in shapes:
        backbone += "-cbam"
    assert scores is not None, "it has a detector"
    return Recognised(f"Mask R-CNN of torchvision's parts on a {name}", scores[0] - 1, {"backbone": backbone})


def _variant(backbone: str, parameters: int, **settings: object) -> ModelVariant:
    return ModelVariant(f"torchvision-maskrcnn/{backbone}", parameters, {"backbone": backbone, **settings})


FAMILY = Family(
    config=MaskRcnnConfig,
    variants=(
        _variant("resnet18", 30_906_715),
        _variant("resnet18-cbam", 30_958_337, anchor_px=(32, 64, 128)),
        _variant("resnet50", 43_975_515),
        _variant("resnet50-v2", 45_880_411),
    ),
    start="either",
    packages=("torch", "torchvision"),
    code_licence="BSD-3-Clause (torchvision)",
    weights_licence=(
        "torchvision's own are trained on ImageNet and COCO and may carry terms of those data sets "
        '(pytorch.org/vision, "Models and pre-trained weights")'
    ),
    fit=_fit,
    load=_load,
    take=_take,
    recognise=_recognise,
)
