"""Averages losses by weight, for several models."""

from __future__ import annotations

from torch import Tensor

from cellsemi.models.training.together import mean_over_ranks


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of values by weights of the same shape; 0 when all weights are 0, or there are none."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)


def weighted_mean_of_batch(values: Tensor, weight: Tensor) -> Tensor:
    """As `weighted_mean`, over the crops of all ranks: the mean of what they return is that of the whole batch.

    Every rank must call it: for losses that each crop has.
    """
    return (values * weight).sum() / mean_over_ranks(weight.sum()).clamp(min=1e-6)
