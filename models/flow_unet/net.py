"""Builds the network of `flow-unet`: a compact residual U-Net that runs on a laptop's processor.

What makes it cheap: it works at half resolution (pixel unshuffle in, pixel shuffle out), its skip
connections are added and not concatenated, and its channels grow as the pixels shrink, so that every
level costs about the same. One convolution a level scored no worse than two, and a head at full
resolution no better than this one. Upsampling is a 1x1 convolution and a pixel shuffle: both are
deterministic on every device, interpolation is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellsemi.configs.models import FlowUnetConfig
from cellsemi.models.flow.outputs import FLOW_CHANNELS
from cellsemi.models.inference.activations import Watched

GROWTH = (1, 2, 4, 6, 8, 10)  # channels of the levels as multiples of the width


def conv3(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution and batch norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """One 3x3 convolution beside a shortcut (He et al. 2016, with half of the convolutions)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = conv3(inputs, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        return functional.relu(self.body(x) + self.shortcut(x))


class Up(nn.Module):
    """Double the resolution: a 1x1 convolution makes four times the channels, the shuffle spreads them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(inputs, 4 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, 2H, 2W)."""
        return functional.pixel_shuffle(self.project(x), 2)


class FlowNet(nn.Module):
    """(B, 1, H, W) normalised images, sides multiples of 2 ** depth -> (B, 3 + classes, H, W) raw outputs.

    `depth` is the number of levels, up to six. `class_channels` is 0 when there is one class: it needs no channel.
    """

    def __init__(self, width: int, depth: int, class_channels: int) -> None:
        super().__init__()
        channels = [width * factor for factor in GROWTH[:depth]]
        before = [channels[0], *channels[:-1]]
        self.stem = nn.Sequential(conv3(4, channels[0]), nn.ReLU())
        self.encoder = nn.ModuleList(Residual(a, b) for a, b in zip(before, channels, strict=True))
        self.up = nn.ModuleList(Up(b, a) for a, b in pairwise(channels))
        self.decoder = nn.ModuleList(Residual(c, c) for c in channels[:-1])
        self.head = nn.Conv2d(channels[0], 4 * (FLOW_CHANNELS + class_channels), 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Raw outputs: logit, flow y, flow x, class logits."""
        x = self.stem(functional.pixel_unshuffle(images, 2))
        skips: list[Tensor] = []
        for level, encode in enumerate(self.encoder):
            x = encode(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](self.up[level](x) + skips[level])
        return functional.pixel_shuffle(self.head(x), 2)


def build(model: FlowUnetConfig, classes: Sequence[str], seed: int) -> FlowNet:
    """A fresh network, the same for the same seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = FlowNet(model.width, model.depth, len(classes) if len(classes) > 1 else 0)
    return net


def watched_parts(net: FlowNet) -> list[Watched]:
    """The parts of the network that an explanation shows: stem, encoder from fine to coarse, decoder back, head."""
    levels = len(net.decoder)
    return [
        Watched("stem", net.stem, "encoder"),
        *(Watched(f"encoder {level + 1}", part, "encoder") for level, part in enumerate(net.encoder)),
        *(Watched(f"decoder {level + 1}", net.decoder[level], "decoder") for level in reversed(range(levels))),
        Watched("head", net.head, None),
    ]
