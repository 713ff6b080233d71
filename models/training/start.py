"""Starts a network from the weights of a trained model of the same architecture: a student from its teacher."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load as load_tensors
from torch import nn

from cellsemi.configs.errors import ModelError
from cellsemi.models.base import FitTask
from cellsemi.models.model_files import read_weights


def start_from_teacher(net: nn.Module, task: FitTask) -> None:
    """Load the (averaged) weights of `task.teacher`, all of them; without a teacher the network stays as it was built.

    The learning rate warms up anew. ModelError when the teacher's weights are missing, altered, or those of another
    architecture.
    """
    if task.teacher is None:
        return
    try:
        net.load_state_dict(load_tensors(read_weights(Path(task.teacher))))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{task.teacher}: not the weights of the same network ({reason})") from None
