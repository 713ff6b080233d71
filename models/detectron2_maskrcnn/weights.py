"""Loads given weights into Detectron2's networks, and writes its checkpoints.

Accepted are a finished detector of Detectron2's, one of cellsemi, and MSRA's ResNet-50, trained on ImageNet, as its
model zoo has it (R-50.pkl, in Caffe2's names). Torchvision's ResNet-50 is not: it was made with other strides.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import Detectron2Config
from cellsemi.models.base import FitTask
from cellsemi.models.detectron2_maskrcnn.names import detectron2_name, is_caffe2_resnet
from cellsemi.models.detectron2_maskrcnn.net import BACKBONE, Network, settings
from cellsemi.models.model_files import StartWeights, read_model_file, read_weights
from cellsemi.models.start_weights import Given, other_settings, refuse_other_model
from cellsemi.models.weight_files import differences
from cellsemi.rounds.store import files

OTHER_CLASSES = ("roi_heads.box_predictor.", "roi_heads.mask_head.predictor.")  # depend on the number of classes
ANCHORS = "anchor_generator.cell_anchors."  # in old checkpoints, with pixel_mean and pixel_std
FROZEN_NORM = f"{BACKBONE}.stem.conv1.norm.running_mean"  # the group norm of the variant from scratch has none


def is_scratch(given: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are those of a network in the variant that is trained from scratch."""
    return FROZEN_NORM not in given and not is_caffe2_resnet(given)


def start(net: Network, given: Given, tensors: Mapping[str, Tensor], task: FitTask) -> StartWeights:
    """Load the tensors of given weights into `net`; returns what was loaded and what starts anew.

    ModelError, naming what differs, when the weights do not fit, and when they are those of an earlier model with other
    classes.
    """
    assert isinstance(task.model, Detectron2Config), "called by this family"
    refuse_other_model(given, task.model.kind, task.classes)
    try:
        new = start_from(net, tensors, given.place)
    except ModelError as error:
        changed = other_settings(given, task.model)
        raise ModelError(f"{error}; {changed}" if changed else str(error)) from None
    unused = [name for name in tensors if is_caffe2_resnet(tensors) and detectron2_name(name) is None]
    return given.stated(task.model, len(net.state_dict()) - len(new), new, unused)


def start_from(net: Network, tensors: Mapping[str, Tensor], path: Path) -> list[str]:
    """Copy the tensors, read from `path`, into `net`; returns the names that keep their random start.

    Those are the last layers of the box and mask heads where their shape differs (another number of classes), and with
    a ResNet alone all but the backbone. ModelError naming the weights when any other is missing, unexpected or of
    another shape, and when the file was made for other pixel values or other anchors.
    """
    own, constants, given = net.state_dict(), _constants(net), dict(tensors)
    alone = is_caffe2_resnet(given)
    if alone:
        named = {detectron2_name(name): value for name, value in given.items()}
        given = {f"{BACKBONE}.{name}": value for name, value in named.items() if name is not None}
    for name in constants.keys() & given.keys():
        if given[name].shape != constants[name].shape or not torch.allclose(given[name].float(), constants[name]):
            raise ModelError(f"{path}: {name} is {given[name].flatten().tolist()}, this model's is another; {_WANTED}")
    given = {name: value for name, value in given.items() if name not in constants}
    wanted = {name: value for name, value in own.items() if not alone or name.startswith(f"{BACKBONE}.")}
    other = {name for name in wanted if name in given and given[name].shape != own[name].shape}
    new = {name for name in other if name.startswith(OTHER_CLASSES)}
    found = differences(_without(given, new), _without(wanted, new))
    if found:
        raise ModelError(f"{path}: not the weights of this model: {found}; {_WANTED}")
    net.load_state_dict(own | _without(given, new))
    return sorted(new | (own.keys() - wanted.keys()))


_WANTED = (
    "expected those of Detectron2's mask_rcnn_R_50_FPN_3x, or with `cascade: true` of cascade_mask_rcnn_R_50_FPN_3x; "
    "its R-50.pkl (MSRA); or a detectron2-maskrcnn of cellsemi"
)


def _without(table: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    return {name: value for name, value in table.items() if name not in names}


def export_detectron2(folder: Path, path: Path) -> None:
    """Write the model of a trained folder as `path` (.pth), which Detectron2's DetectionCheckpointer opens.

    Beside it, with the suffix .yaml, go the settings that Detectron2 builds the same network from
    (`get_cfg().merge_from_file`). ModelError when the folder holds no model, or one of another family.
    """
    about = read_model_file(folder)
    if not isinstance(about.model, Detectron2Config):
        raise ModelError(
            f"{folder}: its model is {about.kind!r}; only 'detectron2-maskrcnn' can be written for Detectron2"
        )
    if path.suffix != ".pth":
        raise ModelError(f"{path}: expected a name that ends in .pth")
    tensors = load_tensors(read_weights(folder))
    buffer = io.BytesIO()
    torch.save({"model": tensors}, buffer)
    cfg = settings(about.model, len(about.classes), is_scratch(tensors))
    files.write_bytes(path.with_suffix(".yaml"), cfg.dump().encode())
    files.write_bytes(path, buffer.getvalue())


def _constants(net: Network) -> dict[str, Tensor]:
    """What old checkpoints hold although it is not learned, by the names that it has there."""
    anchors = net.proposal_generator.anchor_generator.cell_anchors
    named = {f"proposal_generator.{ANCHORS}{i}": value for i, value in enumerate(anchors)}
    return {"pixel_mean": net.pixel_mean, "pixel_std": net.pixel_std, **named}
