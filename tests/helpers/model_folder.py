"""A trained folder without a fit: the facts of a model, and any bytes as its weights."""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.models import CellposeSamConfig, FlowUnetConfig, ModelConfig
from cellsemi.models.model_files import (
    CellSize,
    FitFigures,
    ModelFacts,
    read_model_file,
    read_weights,
    write_model_file,
)

UNET = FlowUnetConfig(name="m")
CELLPOSE = CellposeSamConfig(name="m", weights="w")


def facts_of(model: ModelConfig, classes: tuple[str, ...] = ("a", "b")) -> ModelFacts:
    """What a fit would state of a model."""
    figures = FitFigures(steps=1, seed=0, loss=0.0, parameters=1)
    return ModelFacts(model=model, classes=classes, one_class_per_image=False, fingerprint="", training=figures)


def write_model(folder: Path, model: ModelConfig, weights: bytes = b"x") -> Path:
    """A folder that a fit of this model might have left."""
    write_model_file(folder, weights, facts_of(model))
    return folder


def at_scale(trained: Path, folder: Path, scale: float) -> Path:
    """A copy of a trained folder whose model file says that its crops were enlarged `scale` times."""
    facts = read_model_file(trained).model_dump(exclude={"weights_sha256"})
    write_model_file(folder, read_weights(trained), ModelFacts(**{**facts, "cell_size": CellSize(scale=scale)}))
    return folder
