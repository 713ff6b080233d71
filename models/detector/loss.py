"""Computes what the losses of all box detectors need: shares of ignored area, and masks sampled in boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from cellsemi.models.detector.targets import DetectorTarget
from cellsemi.rounds.cells.instance_map import IGNORE

IGNORED_SHARE = 0.5  # a box with more of its area IGNORE is not background
SAMPLES = 2  # points per bin and axis of a sampled mask


def ignored_share(ignored_sum: Tensor, boxes: Tensor) -> Tensor:
    """float32 (n,): share of each box (n, 4), cut to the crop, that is IGNORE; 0 for what is not in the crop.

    `ignored_sum` int64 (H + 1, W + 1) is that of a DetectorTarget. Boxes are rounded to whole pixels.
    """
    height, width = ignored_sum.shape[0] - 1, ignored_sum.shape[1] - 1
    edges = boxes.round().long()
    x0, x1 = edges[:, 0].clamp(0, width), edges[:, 2].clamp(0, width)
    y0, y1 = edges[:, 1].clamp(0, height), edges[:, 3].clamp(0, height)
    covered = ignored_sum[y1, x1] - ignored_sum[y0, x1] - ignored_sum[y1, x0] + ignored_sum[y0, x0]
    return covered.float() / ((x1 - x0) * (y1 - y0)).clamp(min=1).float()


def sample_instance_map(instance_map: Tensor, wanted: Tensor, boxes: Tensor, side: int) -> Tensor:
    """float32 (n, side, side): the share of cell `wanted` (n,) in each bin of its box (n, 4).

    RoIAlign of the mask `instance_map == wanted`, pixel centres at half coordinates, SAMPLES x SAMPLES points a bin;
    `draw_masks.paste_in_box` is its inverse.
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


def mask_truth(target: DetectorTarget, wanted: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The masks that boxes (n, 4) of cells `wanted` (n,) should show, and their weights, both (n, side, side).

    A bin that touches an IGNORE pixel has no weight, the others have their cell's.
    """
    truth = sample_instance_map(target.instance_map, wanted, boxes, side)
    unknown = sample_instance_map(target.instance_map, torch.full_like(wanted, IGNORE), boxes, side)
    return truth, (unknown == 0) * target.weights[wanted][:, None, None]
