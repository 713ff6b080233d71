"""Writes a fine-tuned network as a file that stock Cellpose opens."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load as load_tensors

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import CellposeSamConfig
from cellsemi.models.cellpose_sam import parts
from cellsemi.models.model_files import read_model_file, read_weights
from cellsemi.rounds.store import files


def export_cellpose(folder: Path, path: Path) -> list[str]:
    """Write a trained folder's network for `CellposeModel(pretrained_model=str(path))`.

    Returns the names of the tensors that are left out: Cellpose knows no classes, a class head stays behind.
    ModelError when the folder holds no model, or one of another family.
    """
    about = read_model_file(folder)
    if not isinstance(about.model, CellposeSamConfig):
        raise ModelError(f"{folder}: a model of the kind {about.kind}, not cellpose-sam")
    state = load_tensors(read_weights(folder))
    known = parts.cellpose_state(state)
    with files.atomic_file(path) as file:
        torch.save(known, file)
    return sorted(name for name in state if not name.startswith(parts.NET))
