"""Matches torchvision's anchors and proposals to cells, and measures the distance of their boxes.

With no IGNORE pixel and all weights 1 the losses are those of torchvision (Ren et al. 2015, He et al. 2017).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou

from cellsemi.models.detector.loss import IGNORED_SHARE, ignored_share
from cellsemi.models.detector.targets import DetectorTarget

BETA = 1 / 9  # where the box loss turns from squared to absolute


def match(matcher: Any, target: DetectorTarget, boxes: Tensor) -> Tensor:
    """int64 (n,): the number of the cell that each box (n, 4) should find, 0 for background, -1 for neither.

    Neither is what torchvision's `matcher` leaves between its thresholds, and a box without a cell of which
    more than IGNORED_SHARE is IGNORE.
    """
    if len(target.boxes) > 1 and len(boxes):
        matched: Tensor = matcher(box_iou(target.boxes[1:], boxes)) + 1  # below, between: -1, -2
    else:
        matched = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    ignored = (matched == 0) & (ignored_share(target.ignored_sum, boxes) > IGNORED_SHARE)
    return torch.where(ignored, -1, matched)


def box_loss(shift: Tensor, truth: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """Smooth L1 of the box shifts (n, 4) of positives with weights (n,), over the `total` weight of the sample."""
    distance = functional.smooth_l1_loss(shift, truth, beta=BETA, reduction="none").sum(1)
    return (distance * weight).sum() / total.clamp(min=1e-6)
