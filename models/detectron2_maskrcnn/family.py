"""Describes `detectron2-maskrcnn`: Detectron2's Mask R-CNN or Cascade (systems A and C of docs/models.md)."""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.models import Detectron2Config
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import (
    Export,
    ExportTask,
    Family,
    FitResult,
    FitTask,
    ModelVariant,
    Predictor,
    Progress,
    Recognised,
    Shapes,
)
from cellsemi.models.detectron2_maskrcnn.install import DETECTRON2_INSTALL
from cellsemi.models.detectron2_maskrcnn.names import CASCADE_SCORES, CLASS_SCORES, is_caffe2_resnet
from cellsemi.models.model_files import read_model_file


def _fit(task: FitTask, progress: Progress) -> FitResult:
    from cellsemi.models.detectron2_maskrcnn.fit_and_predict import fit

    return fit(task, progress)


def _take(task: FitTask) -> FitResult:
    from cellsemi.models.detectron2_maskrcnn.fit_and_predict import take

    return take(task)


def _load(folder: Path, inference: InferenceConfig, device: str) -> Predictor:
    from cellsemi.models.detectron2_maskrcnn.fit_and_predict import load

    return load(folder, inference, device)


def _export(task: ExportTask) -> list[str]:
    from cellsemi.models.detectron2_maskrcnn.weights import export_detectron2

    export_detectron2(task.folder, task.out)
    sentences = ["Detectron2's DetectionCheckpointer opens it."]
    size = read_model_file(task.folder).cell_size
    scale = size.scale
    if size.resize_px is not None:
        sentences.append(f"It learned from images whose longer side has {size.resize_px} px: resize an image so.")
    if scale != 1:
        sentences.append(
            f"It learned from images at {scale:.4g} times their size: resize an image so before it predicts."
        )
    return sentences


def _recognise(shapes: Shapes) -> Recognised | None:
    if is_caffe2_resnet(shapes) and "res4_5_branch2c_w" in shapes and "res4_6_branch2c_w" not in shapes:
        return Recognised("MSRA's ResNet-50 without a detector: FPN, RPN and heads start anew", None)
    blocks = sum(name.startswith("backbone.bottom_up.res4.") and name.endswith("conv3.weight") for name in shapes)
    if (
        blocks != 6
        or "roi_heads.mask_head.predictor.weight" not in shapes
        or "backbone.fpn_lateral2.weight" not in shapes
    ):
        return None
    for cascade, scores in ((False, CLASS_SCORES), (True, CASCADE_SCORES)):
        if scores in shapes:
            name = "Cascade Mask R-CNN" if cascade else "Mask R-CNN"
            return Recognised(f"{name} of Detectron2, R50-FPN", shapes[scores][0] - 1, {"cascade": cascade})
    return None


FAMILY = Family(
    config=Detectron2Config,
    variants=(
        ModelVariant("detectron2-maskrcnn/r50-fpn", 45_285_974, {"cascade": False}),
        ModelVariant("detectron2-maskrcnn/cascade", 75_713_122, {"cascade": True}),
    ),
    start="either",
    packages=("torch", "detectron2"),
    install={"detectron2": DETECTRON2_INSTALL},
    code_licence="Apache-2.0 (Detectron2)",
    weights_licence="its model zoo is CC BY-SA 3.0 by its MODEL_ZOO.md; trained on COCO",
    fit=_fit,
    load=_load,
    take=_take,
    recognise=_recognise,
    exports={"detectron2": Export(".pth", _export)},
)
