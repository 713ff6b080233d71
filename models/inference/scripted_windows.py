"""Places and blends the windows of an image by torch operations alone, so that TorchScript can hold it.

The same as `windows.spans` and `tiling`, for tiles of a size; `torch.jit.script` compiles the functions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def window_starts(side: int, tile: int, step: int) -> list[int]:
    """First pixels of the windows along a side; see windows.spans.

    >>> window_starts(100, 64, 48)
    [0, 36]
    """
    if side <= tile:
        return [0]
    last = (side - tile + step - 1) // step
    starts: list[int] = []
    for i in range(last + 1):
        whole, rest = i * (side - tile) // last, i * (side - tile) % last
        if 2 * rest > last or (2 * rest == last and whole % 2 == 1):  # halves go to the even number, as Python's round
            whole += 1
        starts.append(whole)
    return starts


def window_weight(starts: list[int], i: int, length: int, like: Tensor) -> Tensor:
    """float32 (length,): the weight of the pixels of window `i` along a side; see tiling."""
    if len(starts) == 1:
        return torch.ones([length], dtype=torch.float32, device=like.device)
    start, stop = starts[i], starts[i] + length
    before = (starts[i - 1] + length + start) // 2 - start if i > 0 else 0
    after = stop - (stop + starts[i + 1]) // 2 if i < len(starts) - 1 else 0
    place = torch.arange(length, dtype=torch.float64, device=like.device)
    from_end = torch.minimum(place, length - 1 - place) + 0.5
    rising = (from_end / max(1, 2 * max(before, after))).clamp(0, 1)
    return torch.sin(rising * torch.pi / 2).square().to(torch.float32) + 1e-4
