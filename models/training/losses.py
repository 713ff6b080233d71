"""Averages losses by weight, for several models."""

from __future__ import annotations

from torch import Tensor


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of values by weights of the same shape; 0 when all weights are 0, or there are none."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)
