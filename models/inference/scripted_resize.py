"""Resizes images by torch operations alone, so that TorchScript can hold it: OpenCV's INTER_AREA and INTER_LINEAR.

Both are sums along each side with fixed weights, so that a resize is two products of matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scaled_side(side: int, scale: float) -> int:
    """The pixels of a side that is enlarged `scale` times, at least 1; halves go to the even number, as Python's round.

    >>> scaled_side(1025, 0.5), scaled_side(1027, 0.5), scaled_side(3, 0.1)
    (512, 514, 1)
    """
    exact = side * scale
    whole = int(exact)
    rest = exact - whole
    if rest > 0.5 or (rest == 0.5 and whole % 2 == 1):
        whole += 1
    return max(1, whole)


def resized(channels: Tensor, height: int, width: int) -> Tensor:
    """(C, H, W) float32 at another size, both sides smaller or both larger: averaged by area when it shrinks."""
    if channels.shape[1] == height and channels.shape[2] == width:
        return channels
    shrinks = height * width < channels.shape[1] * channels.shape[2]
    down = side_weights(channels.shape[1], height, shrinks, channels)
    across = side_weights(channels.shape[2], width, shrinks, channels)
    return down @ channels @ across.t()


def side_weights(side: int, to: int, shrinks: bool, like: Tensor) -> Tensor:
    """float32 (to, side): the share of each pixel of a side in each pixel of the resized one."""
    step = side / to
    pixel = torch.arange(side, dtype=torch.float64, device=like.device)[None]
    place = torch.arange(to, dtype=torch.float64, device=like.device)[:, None]
    if shrinks:
        start, stop = place * step, (place + 1) * step
        shared = torch.minimum(stop, pixel + 1) - torch.maximum(start, pixel)
        return (shared.clamp(min=0) / step).to(torch.float32)
    centre = ((place + 0.5) * step - 0.5).clamp(0, side - 1)
    return (1 - (centre - pixel).abs()).clamp(min=0).to(torch.float32)
