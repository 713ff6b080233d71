"""Detectron2's networks small enough for tests: ResNet-18, few channels, small anchors.

Skips the tests that import it where Detectron2 is missing: it is not on the package index. `cellsemi doctor`
prints the line that installs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

pytest.importorskip("detectron2", reason="Detectron2 is not installed; `cellsemi doctor` says how")

from cellsemi.configs.models import Detectron2Config
from cellsemi.configs.phases import AugmentConfig
from cellsemi.models.detectron2_maskrcnn import net as detectron2_net
from cellsemi.models.detectron2_maskrcnn import weights

PLAIN = AugmentConfig(scale_min=1, scale_max=1, rotate=False, blur=0, noise=0)
SMALL = Detectron2Config(name="m", rpn_proposals=100, roi_batch=16, augment=PLAIN)

real_settings = detectron2_net.settings


def small_settings(config: Detectron2Config, classes: int, scratch: bool = True) -> Any:
    cfg = real_settings(config, classes, scratch)
    model = cfg.MODEL
    model.RESNETS.DEPTH, model.RESNETS.RES2_OUT_CHANNELS = 18, 64
    model.FPN.OUT_CHANNELS = 64
    model.ANCHOR_GENERATOR.SIZES = [[12], [16], [20], [24], [32]]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0]]
    model.RPN.BATCH_SIZE_PER_IMAGE = 64
    model.ROI_BOX_HEAD.NUM_CONV = min(1, model.ROI_BOX_HEAD.NUM_CONV)
    model.ROI_BOX_HEAD.FC_DIM, model.ROI_BOX_HEAD.CONV_DIM = 64, 32
    model.ROI_MASK_HEAD.NUM_CONV, model.ROI_MASK_HEAD.CONV_DIM = 1, 32
    return cfg


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on every network that is built is a small one."""
    for module in (detectron2_net, weights):
        monkeypatch.setattr(module, "settings", small_settings)


def stock_network(cfg: Any) -> nn.Module:
    """Detectron2's own network of some settings."""
    from detectron2.modeling import build_model

    cfg.MODEL.DEVICE = "cpu"
    net: nn.Module = build_model(cfg)
    return net


def open_checkpoint(net: nn.Module, path: Path) -> None:
    """As Detectron2 opens it."""
    from detectron2.checkpoint import DetectionCheckpointer

    DetectionCheckpointer(net).load(str(path))
