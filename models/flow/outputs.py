"""Names the channels of a flow network's outputs, and turns raw outputs into probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

FLOW_CHANNELS = 3  # cell-probability logit, flow y, flow x; class logits follow


def activate(raw: Tensor) -> Tensor:
    """Raw outputs (B, 3 + classes, H, W) -> cell probability in [0, 1], flow y, flow x, class probabilities.

    The class probabilities of a pixel sum to 1.
    """
    parts = [raw[:, :1].sigmoid(), raw[:, 1:FLOW_CHANNELS]]
    if raw.shape[1] > FLOW_CHANNELS:
        parts.append(raw[:, FLOW_CHANNELS:].softmax(1))
    return torch.cat(parts, 1)
