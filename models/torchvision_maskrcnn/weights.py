"""Loads given weights into a network: a finished detector, one of cellsemi, or a ResNet trained on ImageNet.

All must fit, except for the heads of another task; with a ResNet alone everything above it is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import MaskRcnnConfig
from cellsemi.models.base import FitTask
from cellsemi.models.model_files import StartWeights
from cellsemi.models.start_weights import Given, other_settings, refuse_other_model
from cellsemi.models.torchvision_maskrcnn.net import BACKBONE, Form
from cellsemi.models.weight_files import some_names

OTHER_CLASSES = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.")  # depend on the number of classes
NEW = ("extra_heads.",)  # not part of Mask R-CNN
ATTENTION = (".channel.", ".spatial.")  # of `resnet18-cbam`: no ResNet trained on ImageNet has it
CLASSIFIER = "fc."  # of a ResNet trained on ImageNet: no detector has a use for it
RESNET = ("conv1.weight", "layer1.0.conv1.weight")  # what every ResNet of torchvision begins with
MASK_LAYER = ("roi_heads.mask_head.0.0.weight", "roi_heads.mask_head.mask_fcn1.weight")  # the first; older files
COUNTED = f"{BACKBONE}.bn1.num_batches_tracked"  # batch norm that learns counts; a frozen one does not


def as_detector(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by the names that a detector has for them: those of a ResNet alone are its backbone's."""
    if not is_resnet(given):
        return dict(given)
    return {f"{BACKBONE}.{name}": value for name, value in given.items() if not name.startswith(CLASSIFIER)}


def is_resnet(given: Mapping[str, object]) -> bool:
    """Whether these are the names of a ResNet of torchvision without a detector around it."""
    return all(name in given for name in RESNET)


def form_of(config: MaskRcnnConfig, given: Mapping[str, Tensor]) -> Form:
    """The form of the network that these tensors are for.

    Statistics of batch norm stay as they came where they came frozen, and with a plain ResNet trained on ImageNet.
    """
    if is_resnet(given):
        return Form(frozen=config.backbone in ("resnet18", "resnet50"), mask_width=config.mask_hidden)
    mask = next((given[name] for name in MASK_LAYER if name in given), None)
    width = config.mask_hidden if mask is None else int(mask.shape[0])
    plain = config.backbone in ("resnet18", "resnet50")
    return Form(frozen=plain and COUNTED not in given, mask_width=width)


def start(net: nn.Module, given: Given, tensors: Mapping[str, Tensor], task: FitTask) -> StartWeights:
    """Load the tensors of given weights into `net`; returns what was loaded and what starts anew.

    ModelError, naming what differs, when the weights do not fit, and when they are those of an earlier model with other
    classes.
    """
    assert isinstance(task.model, MaskRcnnConfig), "called by this family"
    refuse_other_model(given, task.model.kind, task.classes)
    try:
        new = start_from(net, tensors, given.place)
    except ModelError as error:
        settings = other_settings(given, task.model)
        raise ModelError(f"{error}; {settings}" if settings else str(error)) from None
    unused = [name for name in tensors if name.startswith(CLASSIFIER)] if is_resnet(tensors) else []
    return given.stated(task.model, len(net.state_dict()) - len(new), new, unused)


def start_from(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> list[str]:
    """Copy the tensors, read from `path`, into `net`; returns the names that keep their random start.

    Those are the box and mask predictors where their shape differs (another number of classes) and the extra heads;
    with a ResNet alone all but the backbone. ModelError naming the weights when any other is missing, unexpected or
    of another shape.
    """
    own, given, alone = net.state_dict(), as_detector(tensors), is_resnet(tensors)
    differ = {name for name, value in given.items() if name in own and value.shape != own[name].shape}
    other = {name for name in differ if name.startswith(OTHER_CLASSES)}
    wrong = [f"{name} ({_sides(given[name])} given, {_sides(own[name])} wanted)" for name in sorted(differ - other)]
    problem = f"{some_names(wrong)} of another shape" if wrong else ""
    if not problem:
        result = _loaded(net, {name: value for name, value in given.items() if name not in other}, path)
        new = sorted(result[0])
        missing = [name for name in new if name not in other and not _may_be_new(name, alone)]
        if not missing and not result[1]:
            return new
        problem = f"{some_names(missing)} missing, {some_names(result[1])} unexpected"
    raise ModelError(
        f"{path}: not the weights of this model: {problem}; check that model.backbone and the anchors are those of "
        "the file"
    )


def _may_be_new(name: str, alone: bool) -> bool:
    if not alone:
        return name.startswith(NEW)
    return not name.startswith(f"{BACKBONE}.") or any(part in name for part in ATTENTION)


def _loaded(net: nn.Module, given: dict[str, Tensor], path: Path) -> tuple[list[str], list[str]]:
    """Load what is given; returns the names that are missing, and those that nothing has a use for."""
    try:
        result = net.load_state_dict(given, strict=False)
    except RuntimeError:  # tensors of older files, under names that torchvision knows
        raise ModelError(f"{path}: weights of another shape; check model.backbone and the anchors") from None
    return list(result.missing_keys), list(result.unexpected_keys)


def _sides(value: Tensor) -> list[int]:
    return list(value.shape)
