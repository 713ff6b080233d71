"""Crops with four bright squares, for the tests of the detectors."""

from __future__ import annotations

import numpy as np

from cellsemi.models.crops.crop import Crop

SIDE = 64


def crop_of(seed: int, weights: tuple[float, ...] = (1, 1, 1, 1), empty: bool = False) -> Crop:
    """Four bright squares of 12 to 18 px, one in each quarter, two classes."""
    rng = np.random.default_rng(seed)
    instance_map = np.zeros((SIDE, SIDE), np.int32)
    for i in range(0 if empty else 4):
        y, x = 8 + 32 * (i // 2) + rng.integers(-4, 5), 8 + 32 * (i % 2) + rng.integers(-4, 5)
        height, width = rng.integers(12, 19, 2)
        instance_map[y : y + height, x : x + width] = i + 1
    light = np.where(instance_map > 0, 0.8, 0.1) + rng.normal(0, 0.02, instance_map.shape)
    pixels = np.repeat(light.clip(0, 1).astype(np.float32)[..., None], 3, 2)
    return Crop(pixels, instance_map, np.array([0, 0, 1, 0, 1]), np.array([1, *weights], np.float32))
