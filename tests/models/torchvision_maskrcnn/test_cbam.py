"""The attention module against its formulas, written out in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal

from cellsemi.models.torchvision_maskrcnn.cbam import Cbam, ChannelAttention


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def by_hand(module: Cbam, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Equations 2 and 3 of Woo et al. for one image (C, H, W)."""
    state = {name: value.detach().double().numpy() for name, value in module.state_dict().items()}
    first, second = state["channel.shared.0.weight"][:, :, 0, 0], state["channel.shared.2.weight"][:, :, 0, 0]

    def perceptron(v: NDArray[np.float64]) -> NDArray[np.float64]:
        return second @ np.maximum(first @ v, 0)

    x = x * sigmoid(perceptron(x.mean((1, 2))) + perceptron(x.max((1, 2))))[:, None, None]
    kernel = state["spatial.look.weight"][0]
    planes = zip((x.mean(0), x.max(0)), kernel, strict=True)
    looked = sum(signal.correlate2d(plane, window, mode="same") for plane, window in planes)
    return x * sigmoid(looked)


def test_it_is_the_published_formula() -> None:
    torch.manual_seed(0)
    module = Cbam(32)
    x = torch.randn(2, 32, 9, 11)
    found = module(x).detach().double().numpy()
    for image, expected in zip(found, x.double().numpy(), strict=True):
        np.testing.assert_allclose(image, by_hand(module, expected), rtol=1e-4, atol=1e-6)


def test_its_size_is_the_stated_one() -> None:
    assert sum(p.numel() for p in Cbam(256).parameters()) == 2 * 256 * 16 + 2 * 7 * 7
    assert ChannelAttention(4)(torch.ones(1, 4, 2, 2)).shape == (1, 4, 1, 1)  # fewer channels than the reduction
