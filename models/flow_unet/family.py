"""Describes `flow-unet`, the embedded family: a compact flow-field U-Net, trained on a laptop."""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.models import FlowUnetConfig
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


def _fit(task: FitTask, progress: Progress) -> FitResult:
    from cellsemi.models.flow_unet.fit_and_predict import fit

    return fit(task, progress)


def _take(task: FitTask) -> FitResult:
    from cellsemi.models.flow_unet.fit_and_predict import take

    return take(task)


def _load(folder: Path, inference: InferenceConfig, device: str) -> Predictor:
    from cellsemi.models.flow_unet.fit_and_predict import load

    return load(folder, inference, device)


def _torchscript(task: ExportTask) -> list[str]:
    from cellsemi.models.flow_unet.torchscript import to_torchscript

    return to_torchscript(task.folder, task.inference, task.out)


def _bioimageio(task: ExportTask) -> list[str]:
    from cellsemi.models.flow_unet.bioimageio import to_bioimageio

    if task.publication is None:
        raise TypeError("bioimage-io publishes a model: the task needs a publication")
    return to_bioimageio(task.folder, task.inference, task.publication, task.out)


def _recognise(shapes: Shapes) -> Recognised | None:
    from cellsemi.models.flow.outputs import FLOW_CHANNELS

    stem, head = shapes.get("stem.0.0.weight"), shapes.get("head.weight")
    if stem is None or head is None or "encoder.0.body.0.weight" not in shapes:
        return None
    classes = max(1, head[0] // 4 - FLOW_CHANNELS)  # the head makes four pixels of each; one class has no channel
    depth = sum(name.startswith("encoder.") and name.endswith(".body.0.weight") for name in shapes)
    return Recognised("a flow-field U-Net of cellsemi", classes, {"width": stem[0], "depth": depth})


FAMILY = Family(
    config=FlowUnetConfig,
    variants=(ModelVariant("flow-unet", 393_372),),
    start="either",
    packages=("torch", "cellpose"),
    code_licence="Apache-2.0 (cellsemi)",
    weights_licence="none of others: it starts from scratch, or from a model of your own",
    fit=_fit,
    load=_load,
    take=_take,
    recognise=_recognise,
    exports={"torchscript": Export(".pt", _torchscript), "bioimage-io": Export(".zip", _bioimageio, publishes=True)},
)
