"""The pieces of a detector's losses that know of ignored areas and of the weights of cells.

With no IGNORE pixel and all weights 1 the losses are those of torchvision (Ren et al. 2015, He et al. 2017).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou

from cellsemi.models.crops.augment import IGNORE
from cellsemi.models.detector.targets import Target

IGNORED_SHARE = 0.5  # a box with more of its area IGNORE is not background
BETA = 1 / 9  # where the box loss turns from squared to absolute
SAMPLES = 2  # points per bin and axis of a sampled mask


def outside_share(corners: Tensor, boxes: Tensor) -> Tensor:
    """float32 (n,): share of each box (n, 4), cut to the crop, that is IGNORE; 0 for what is not in the crop.

    `corners` int64 (H + 1, W + 1) is Target.outside. Boxes are rounded to whole pixels.
    """
    height, width = corners.shape[0] - 1, corners.shape[1] - 1
    edges = boxes.round().long()
    x0, x1 = edges[:, 0].clamp(0, width), edges[:, 2].clamp(0, width)
    y0, y1 = edges[:, 1].clamp(0, height), edges[:, 3].clamp(0, height)
    covered = corners[y1, x1] - corners[y0, x1] - corners[y1, x0] + corners[y0, x0]
    return covered.float() / ((x1 - x0) * (y1 - y0)).clamp(min=1).float()


def match(matcher: Any, target: Target, boxes: Tensor) -> Tensor:
    """int64 (n,): the mark of the cell that each box (n, 4) should find, 0 for background, -1 for neither.

    Neither is what torchvision's `matcher` leaves between its thresholds, and a box without a cell of which
    more than IGNORED_SHARE is IGNORE.
    """
    if len(target.boxes) > 1 and len(boxes):
        instance_map: Tensor = matcher(box_iou(target.boxes[1:], boxes)) + 1  # below, between: -1, -2
    else:
        instance_map = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    ignored = (instance_map == 0) & (outside_share(target.outside, boxes) > IGNORED_SHARE)
    return torch.where(ignored, -1, instance_map)


def box_loss(shift: Tensor, truth: Tensor, weight: Tensor, total: Tensor) -> Tensor:
    """Smooth L1 of the box shifts (n, 4) of positives with weights (n,), over the `total` weight of the sample."""
    distance = functional.smooth_l1_loss(shift, truth, beta=BETA, reduction="none").sum(1)
    return (distance * weight).sum() / total.clamp(min=1e-6)


def sample_instance_map(instance_map: Tensor, wanted: Tensor, boxes: Tensor, side: int) -> Tensor:
    """float32 (n, side, side): the share of mark `wanted` (n,) in each bin of its box (n, 4).

    RoIAlign of the mask `instance_map == wanted`, pixel centres at half coordinates, SAMPLES x SAMPLES points a bin;
    `paste.paste_in_box` is its inverse.
    """
    steps = (torch.arange(side * SAMPLES, device=boxes.device) + 0.5) / (side * SAMPLES)

    def points(low: Tensor, high: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
        place = (low[:, None] + steps * (high - low)[:, None] - 0.5).clamp(0, length - 1)
        before = place.floor()
        after = (before + 1).clamp(max=length - 1)
        return [(before.long(), 1 - (place - before)), (after.long(), place - before)]

    rows = points(boxes[:, 1], boxes[:, 3], instance_map.shape[0])
    columns = points(boxes[:, 0], boxes[:, 2], instance_map.shape[1])
    found = torch.zeros(len(boxes), len(steps), len(steps), device=boxes.device)
    for row, row_share in rows:
        for column, column_share in columns:
            hit = instance_map[row[:, :, None], column[:, None, :]] == wanted[:, None, None]
            found += hit * row_share[:, :, None] * column_share[:, None, :]
    return found.view(-1, side, SAMPLES, side, SAMPLES).mean((2, 4))


def mask_truth(target: Target, wanted: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The masks that boxes (n, 4) of cells `wanted` (n,) should show, and their weights, both (n, side, side).

    A bin that touches an IGNORE pixel has no weight, the others have their cell's.
    """
    truth = sample_instance_map(target.instance_map, wanted, boxes, side)
    unknown = sample_instance_map(target.instance_map, torch.full_like(wanted, IGNORE), boxes, side)
    return truth, (unknown == 0) * target.weights[wanted][:, None, None]
