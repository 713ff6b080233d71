"""Loads given weights into a network: all must fit, except for the heads of another task."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from cellsemi.configs.errors import ModelError
from cellsemi.models.weight_files import some_names

OTHER_CLASSES = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.")  # depend on the number of classes
NEW = ("extra_heads.",)  # not part of Mask R-CNN


def start_from(net: nn.Module, given: dict[str, Tensor], path: Path) -> list[str]:
    """Copy the weights `given`, read from `path`, into `net`; returns the names that keep their random start.

    Those are the box and mask predictors where their shape differs (another number of classes) and the extra
    heads. ModelError naming the weights when any other is missing, unexpected or of another shape.
    """
    own = net.state_dict()
    other = {
        name
        for name, value in given.items()
        if name.startswith(OTHER_CLASSES) and name in own and value.shape != own[name].shape
    }
    try:
        result = net.load_state_dict({n: value for n, value in given.items() if n not in other}, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{path}: weights of another shape: {error}; check model.backbone and the anchors") from None
    missing = [name for name in result.missing_keys if not name.startswith(NEW) and name not in other]
    if missing or result.unexpected_keys:
        raise ModelError(
            f"{path}: not the weights of this model: {some_names(missing)} missing, "
            f"{some_names(result.unexpected_keys)} unexpected; check that model.backbone is that of the file"
        )
    return sorted(result.missing_keys)
