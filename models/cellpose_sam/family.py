"""Describes `cellpose-sam`: Cellpose 4, fine-tuned from weights that the user has (Pachitariu et al. 2025)."""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.models import CellposeSamConfig
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
from cellsemi.models.model_files import read_model_file

CELLPOSE_PX = 30.0  # Cellpose 4 enlarges an image by this over the `diameter` that `CellposeModel.eval` is given


def _fit(task: FitTask, progress: Progress) -> FitResult:
    from cellsemi.models.cellpose_sam.fit_and_predict import fit

    return fit(task, progress)


def _take(task: FitTask) -> FitResult:
    from cellsemi.models.cellpose_sam.fit_and_predict import take

    return take(task)


def _load(folder: Path, inference: InferenceConfig, device: str) -> Predictor:
    from cellsemi.models.cellpose_sam.fit_and_predict import load

    return load(folder, inference, device)


def _export(task: ExportTask) -> list[str]:
    from cellsemi.models.cellpose_sam.export import export_cellpose

    left_out = export_cellpose(task.folder, task.out)
    sentences = [f"CellposeModel(pretrained_model={str(task.out)!r}) opens it."]
    if left_out:
        sentences.append(f"Cellpose knows no classes: the class head ({len(left_out)} tensors) is left out.")
    size = read_model_file(task.folder).cell_size
    scale = size.scale
    if size.resize_px is not None:
        sentences.append(f"It learned from images whose longer side has {size.resize_px} px: resize an image so.")
    if scale != 1:
        stated = f"diameter={CELLPOSE_PX / scale:.4g}"
        sentences.append(
            f"It learned from images at {scale:.4g} times their size; with {stated} `eval` predicts so, too."
        )
    return sentences


def _recognise(shapes: Shapes) -> Recognised | None:
    for prefix, what in (("", "Cellpose-SAM's network"), ("net.", "a fine-tuned Cellpose-SAM of cellsemi")):
        if f"{prefix}W2" in shapes and f"{prefix}encoder.patch_embed.proj.weight" in shapes:
            classes = [shape[0] for name, shape in shapes.items() if name == "classes.4.weight"]
            pixels = shapes[f"{prefix}W2"][-1] ** 2  # of a feature
            return Recognised(what, classes[0] // pixels if classes else 1)
    return None


FAMILY = Family(
    config=CellposeSamConfig,
    variants=(ModelVariant("cellpose-sam", 304_628_930),),
    start="weights",
    packages=("torch", "cellpose"),
    code_licence="BSD-3-Clause (Cellpose), Apache-2.0 (Segment Anything)",
    weights_licence=(
        "trained on CC BY-NC data (no commercial use), as Cellpose's README says; the files themselves are published "
        "as BSD-3-Clause (huggingface.co/mouseland/cellpose-sam): ask its authors before commercial use"
    ),
    fit=_fit,
    load=_load,
    take=_take,
    recognise=_recognise,
    exports={"cellpose": Export(".pth", _export)},
)
