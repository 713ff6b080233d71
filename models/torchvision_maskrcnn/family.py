"""Describes `torchvision-maskrcnn`: Mask R-CNN of torchvision's parts (systems B, D and E of docs/models.md)."""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.models import MaskRcnnConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Family, FitResult, FitTask, ModelVariant, Predictor, Progress


def _fit(task: FitTask, progress: Progress) -> FitResult:
    from cellsemi.models.torchvision_maskrcnn.fit_and_predict import fit

    return fit(task, progress)


def _take(task: FitTask) -> FitResult:
    from cellsemi.models.torchvision_maskrcnn.fit_and_predict import take

    return take(task)


def _load(folder: Path, inference: InferenceConfig, device: str) -> Predictor:
    from cellsemi.models.torchvision_maskrcnn.fit_and_predict import load

    return load(folder, inference, device)


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
)
