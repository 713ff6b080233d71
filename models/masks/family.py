"""Describes `masks`: what another tool has found in the images, as a teacher. No model is run."""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import MasksConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Family, Predictor, no_fit
from cellsemi.models.given import take_nothing


def _load(folder: Path, inference: InferenceConfig, device: str) -> Predictor:
    raise ModelError(
        f"{folder.name}: masks that another tool has written predict no image that the tool has not seen; name a "
        "student of the run, which learned from them"
    )


FAMILY = Family(
    config=MasksConfig,
    variants=(),
    start="weights",
    packages=(),
    code_licence="none: the tool's own code is not run here",
    weights_licence="none are used; ask the tool's publishers what its masks may be used for",
    fit=no_fit,
    load=_load,
    take=take_nothing,
)
