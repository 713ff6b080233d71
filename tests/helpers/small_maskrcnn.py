"""A small Mask R-CNN for tests, and its losses for a seed."""

from __future__ import annotations

from typing import Any

import torch

from cellsemi.configs.models import MaskRcnnConfig
from cellsemi.models.detector.targets import DetectorBatch
from cellsemi.models.torchvision_maskrcnn.net import MaskRcnn, build

CPU = torch.device("cpu")


def small(**changes: Any) -> MaskRcnnConfig:
    settings = {"backbone": "resnet18", "anchor_px": (8, 16, 24, 32, 48), "box_hidden": 32, "mask_hidden": 16}
    settings |= {"rpn_proposals": 100, "rpn_batch": 64, "roi_batch": 32}
    return MaskRcnnConfig(name="m", **(settings | changes))


def network(config: MaskRcnnConfig, classes: int = 2) -> MaskRcnn:
    torch.set_num_threads(1)
    return build(config, classes, seed=0).train()


def losses_of(net: MaskRcnn, batch: DetectorBatch, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    return net.losses(batch)
