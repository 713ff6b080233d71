"""Starts a network from the weights of a trained model of the same kind: its teacher, or one of an earlier run."""

from __future__ import annotations

from safetensors.torch import load as load_tensors
from torch import nn

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import WithWeights
from cellsemi.models.base import FitTask
from cellsemi.models.model_files import StartWeights, read_weights
from cellsemi.models.start_weights import Given, other_settings, refuse_other_model
from cellsemi.models.weight_files import differences
from cellsemi.rounds.store import files


def start_from_teacher(net: nn.Module, task: FitTask) -> None:
    """Load the (averaged) weights of `task.teacher`, all of them; without a teacher the network stays as it was built.

    The learning rate warms up anew. ModelError when the teacher's weights are missing, altered, or those of another
    architecture.
    """
    if task.teacher is None:
        return
    try:
        net.load_state_dict(load_tensors(read_weights(files.place(task.teacher))))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{task.teacher}: not the weights of the same network ({reason})") from None


def start_from_earlier(net: nn.Module, given: Given, task: FitTask, model: WithWeights) -> StartWeights:
    """Load the weights of a model of an earlier run, all of them.

    ModelError, naming what differs, when its kind, its classes, a name or a shape is another.
    """
    refuse_other_model(given, task.model.kind, task.classes)
    tensors, own = given.tensors(), net.state_dict()
    if found := differences(tensors, own):
        settings = other_settings(given, model) or "check the model's settings and the number of data.classes"
        raise ModelError(f"weights {given.place}: not those of this {task.model.kind} ({settings}): {found}")
    net.load_state_dict(tensors)
    return given.stated(model, loaded=len(own))
