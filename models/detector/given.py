"""Takes a finished checkpoint of a box detector as a teacher, with all its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import DetectorConfig
from cellsemi.models.base import FitResult, FitTask
from cellsemi.models.given import take_file
from cellsemi.models.model_files import StartWeights
from cellsemi.models.weight_files import some_names


def class_count(given: Mapping[str, Tensor], scores: str, path: Path) -> int:
    """How many classes a checkpoint tells apart, from the tensor `scores` (classes and background, features)."""
    if scores not in given:
        raise ModelError(f"{path}: holds no {scores}: not a finished detector, which alone teaches with `train: false`")
    return int(given[scores].shape[0]) - 1


def refuse_unfinished(new: Sequence[str], path: Path) -> None:
    """ModelError when tensors of the network have no value in the file: they would predict at random."""
    if new:
        raise ModelError(f"{path}: lacks {some_names(list(new))}: not a finished detector of this kind")


def take_net(task: FitTask, net: nn.Module, classes: int, config: DetectorConfig, start: StartWeights) -> FitResult:
    """Write a network with its weights as the folder of a teacher."""
    parameters = sum(parameter.numel() for parameter in net.parameters())
    tensors = {name: value.contiguous() for name, value in net.state_dict().items()}
    return take_file(task, save(tensors), parameters, classes, config.class_map, start)
