"""Knows the names of tensors in Detectron2's files, and in those of Caffe2 that its model zoo has; imports neither."""

from __future__ import annotations

import re
from collections.abc import Mapping

CLASS_SCORES = "roi_heads.box_predictor.cls_score.weight"  # (classes + background, features)
CASCADE_SCORES = "roi_heads.box_predictor.0.cls_score.weight"
# Caffe2's names of a ResNet, and what they are in Detectron2.
_CAFFE2 = re.compile(r"(?:(res[2-5])_(\d+)_(branch1|branch2[abc])|(res_)?conv1)_(w|bn_\w+)")
_LAYERS = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}
_VALUES = {
    "w": "weight",
    "bn_gamma": "norm.weight",
    "bn_beta": "norm.bias",
    "bn_running_mean": "norm.running_mean",
    "bn_running_var": "norm.running_var",
}


def is_caffe2_resnet(given: Mapping[str, object]) -> bool:
    """Whether these are the names of a ResNet of Caffe2 without a detector around it."""
    return "conv1_w" in given and "res2_0_branch2a_w" in given


def detectron2_name(name: str) -> str | None:
    """The name in Detectron2's ResNet of a tensor of Caffe2's; None where it has no use for it.

    >>> detectron2_name("res2_0_branch2a_bn_gamma"), detectron2_name("conv1_w"), detectron2_name("fc1000_w")
    ('res2.0.conv1.norm.weight', 'stem.conv1.weight', None)
    """
    found = _CAFFE2.fullmatch(name)
    if found is None or found[5] not in _VALUES:
        return None
    layer = f"{found[1]}.{found[2]}.{_LAYERS[found[3]]}" if found[1] else "stem.conv1"
    return f"{layer}.{_VALUES[found[5]]}"
