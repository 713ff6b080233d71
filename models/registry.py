"""Lists the model families and loads a trained model, whatever its family."""

from __future__ import annotations

import importlib
from pathlib import Path

from cellsemi.configs.errors import ModelError
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Family, Predictor
from cellsemi.models.model_files import read_model_file

FAMILIES: dict[str, str] = {
    "flow-unet": "cellsemi.models.flow_unet.family",
    "cellpose-sam": "cellsemi.models.cellpose_sam.family",
    "torchvision-maskrcnn": "cellsemi.models.torchvision_maskrcnn.family",
    "detectron2-maskrcnn": "cellsemi.models.detectron2_maskrcnn.family",
}


def family(kind: str) -> Family:
    """The family of a kind; ModelError naming the valid kinds, or the missing framework."""
    if kind not in FAMILIES:
        raise ModelError(f"no model family is called {kind!r}; there are: {', '.join(sorted(FAMILIES))}")
    try:
        module = importlib.import_module(FAMILIES[kind])
    except ModuleNotFoundError as error:
        raise ModelError(f"model {kind!r} needs the package {error.name!r}: pip install {error.name}") from error
    found: Family = module.FAMILY
    return found


def load_predictor(folder: Path, inference: InferenceConfig, device: str) -> Predictor:
    """The predictor of a trained folder, whatever its family."""
    from cellsemi.models.inference.scale_search import ScaleSearch

    predictor = family(read_model_file(folder)["kind"]).load(folder, inference, device)
    return ScaleSearch(predictor, inference.scale_search) if inference.scale_search else predictor
