"""Weights features by attention over channels, then over pixels.

This is CBAM (Woo et al. 2018, "Convolutional Block Attention Module").
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

REDUCTION = 16  # channels per hidden unit of the channel attention
WINDOW = 7  # side of the kernel of the spatial attention


class ChannelAttention(nn.Module):
    """One factor per channel: the sum of a shared perceptron on the mean and on the maximum of each channel."""

    def __init__(self, channels: int, reduction: int = REDUCTION) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.shared = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 1, 1) in (0, 1)."""
        mean, top = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        factor: Tensor = self.shared(mean) + self.shared(top)
        return factor.sigmoid()


class SpatialAttention(nn.Module):
    """One factor per pixel: a convolution over the mean and the maximum of its channels."""

    def __init__(self, window: int = WINDOW) -> None:
        super().__init__()
        self.look = nn.Conv2d(2, 1, window, padding=window // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, H, W) in (0, 1)."""
        factor: Tensor = self.look(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))
        return factor.sigmoid()


class Cbam(nn.Module):
    """The features times their channel attention, and that times its spatial attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel, self.spatial = ChannelAttention(channels), SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        x = x * self.channel(x)
        x = x * self.spatial(x)
        return x
