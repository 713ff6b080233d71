"""Recovers a label map by torch operations alone, so that TorchScript can hold it: `recovery.recover_labels` again.

Every function here is compiled by `torch.jit.script`, which knows a part of Python: no numpy, no keyword-only
arguments, no comprehension over tensors. The steps and their order are those of `recovery` and of Cellpose's
`get_masks_torch` (Stringer et al. 2021); `tests/models/flow/test_scripted_recovery.py` compares the two. Rarely
a pixel differs: the last bit of a step along the flow is not the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def recover(probability: Tensor, flow: Tensor, threshold: float, steps: int, min_area_px: int) -> Tensor:
    """int64 (H, W) label map, 1..N without gaps, of probability (H, W) and flow (2, H, W); see recover_labels."""
    foreground = probability > threshold
    labels = converged(foreground, flow, steps)
    labels = with_small_components(labels, foreground)
    area = torch.bincount(labels.flatten())
    kept = area >= max(min_area_px, 1)
    kept[0] = False
    numbers = torch.where(kept, kept.cumsum(0), torch.zeros_like(area))
    return numbers[labels]


def converged(foreground: Tensor, flow: Tensor, steps: int) -> Tensor:
    """int64 (H, W): the points where the pixels of the foreground (H, W) end, each a label; 0 elsewhere."""
    inside = functional.pad(foreground, [1, 1, 1, 1])  # a margin, as in recovery
    labels = torch.zeros(inside.shape, dtype=torch.int64, device=flow.device)
    pixels = inside.nonzero()
    if len(pixels) > 0:
        field = functional.pad(flow.masked_fill(~foreground, 0), [1, 1, 1, 1])
        labels[pixels[:, 0], pixels[:, 1]] = peak_of(walk(field, pixels, steps), inside.shape[0], inside.shape[1])
    return in_order(labels[1:-1, 1:-1])


def walk(field: Tensor, pixels: Tensor, steps: int) -> Tensor:
    """int64 (N, 2): where pixels (N, 2) are after so many Euler steps along a flow (2, H, W); as integrate_flow."""
    last = torch.tensor([field.shape[2] - 1, field.shape[1] - 1], dtype=torch.float32, device=field.device)
    scaled = (field.flip(0) * (2.0 / last)[:, None, None])[None]  # (x, y), as grid_sample has it
    place = pixels.flip(1).to(torch.float32) / last * 2 - 1
    for _ in range(steps):
        step = functional.grid_sample(
            scaled, place[None, None], mode="bilinear", padding_mode="zeros", align_corners=False
        )
        place = place + step[0, :, 0].t()
        place = torch.where(place >= -1, place, torch.full_like(place, -1)).clamp(max=1)  # also when not a number
    return ((place + 1) * 0.5 * last).to(torch.int64).flip(1)


def peak_of(ends: Tensor, height: int, width: int) -> Tensor:
    """int64 (N,): the peak that each end (N, 2) belongs to, from 1 on; 0 for none. As Cellpose's `get_masks_torch`.

    A peak is the largest count of ends within 5 x 5 pixels, more than ten; it grows five times by one pixel onto
    pixels with more than two ends.
    """
    margin = 20
    tall, wide = height + 2 * margin, width + 2 * margin
    ends = ends + margin
    flat = ends[:, 0] * wide + ends[:, 1]
    counts = torch.bincount(flat, minlength=tall * wide)
    image = counts.view(1, 1, tall, wide).to(torch.float32)
    highest = functional.max_pool2d(image, 5, stride=1, padding=2)
    peaks = ((image == highest) & (image > 10)).flatten().nonzero()[:, 0]
    owner = torch.zeros(tall * wide, dtype=torch.int64, device=ends.device)
    if len(peaks) > 0:
        peaks = peaks[torch.argsort(counts[peaks], stable=True)]  # where two meet, the one with more ends has the pixel
        reach = torch.arange(-5, 6, device=ends.device)
        window = (reach[:, None] * wide + reach[None, :]).flatten()[None, :] + peaks[:, None]
        crowded = (counts[window] > 2).view(-1, 1, 11, 11).to(torch.float32)
        grown = torch.zeros_like(crowded)
        grown[:, :, 5, 5] = 1
        for _ in range(5):
            grown = functional.max_pool2d(grown, 3, stride=1, padding=1) * crowded
        found = grown.flatten(1).nonzero()
        owner.scatter_reduce_(0, window[found[:, 0], found[:, 1]], found[:, 0] + 1, "amax", include_self=True)
    return owner[flat]


def with_small_components(labels: Tensor, foreground: Tensor) -> Tensor:
    """The labels (H, W), and a new one for each 8-connected component of the foreground (H, W) that holds none."""
    missed = foreground & (spread(labels, foreground) == 0)
    number = torch.arange(1, labels.numel() + 1, device=labels.device).view(labels.shape)
    component = in_order(spread(number, missed))
    return torch.where(missed, component + labels.max(), labels)


def in_order(labels: Tensor) -> Tensor:
    """The labels (H, W) renumbered 1..N in the order in which they appear, row by row; 0 stays."""
    flat = labels.flatten()
    place = torch.arange(1, len(flat) + 1, device=labels.device)
    first = torch.full([int(labels.max()) + 1], len(flat) + 1, dtype=torch.int64, device=labels.device)
    first.scatter_reduce_(0, flat, place, "amin", include_self=True)
    first[0] = 0
    return first.argsort().argsort()[labels]


def spread(values: Tensor, inside: Tensor) -> Tensor:
    """int64 (H, W): at all pixels of an 8-connected component of `inside` the largest of its values >= 0; 0 outside."""
    outside = ~inside
    known = values.to(torch.float64).masked_fill(outside, 0)  # pooling takes no integers; float64 is exact
    changed = bool(inside.any())
    while changed:
        grown = functional.max_pool2d(known.unsqueeze(0), 3, stride=1, padding=1).squeeze(0).masked_fill(outside, 0)
        changed = not torch.equal(grown, known)
        known = grown
    return known.to(torch.int64)
