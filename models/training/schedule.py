"""Computes the learning rate of a step, in one or two stages, from the step and the losses so far.

Two stages are how transferred detectors are trained: first the new heads with the backbone frozen, then all
of it with a smaller rate for the backbone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellsemi.configs.training import TrainingConfig

CYCLE_WARM_UP = 0.15  # one-cycle: share of the steps in which the rate rises
START, END = 0.04, 0.001  # one-cycle: first and last rate, as shares of the peak


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates of one step; `backbone` is None while it is frozen."""

    head: float
    backbone: float | None


def rates(step: int, steps: int, config: TrainingConfig, losses: Sequence[float] = ()) -> Rates:
    """The rates of step `step` of `steps`, counted from 0; `losses` are those of the steps before it."""
    frozen = config.frozen_steps
    if step < frozen:
        return Rates((config.frozen_lr or config.lr) * _warm_up(step, config), None)
    factor = course(step - frozen, steps - frozen, config, losses[frozen:])
    return Rates(config.lr * factor, (config.backbone_lr or config.lr) * factor)


def course(step: int, steps: int, config: TrainingConfig, losses: Sequence[float] = ()) -> float:
    """The share of the peak rate in one stage of `steps` steps."""
    if config.schedule == "one-cycle":
        return one_cycle(step, steps)
    if step < config.warmup_steps:
        return _warm_up(step, config)
    if config.schedule == "cosine":
        left = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        return (1 + math.cos(math.pi * left)) / 2
    if config.schedule == "step":
        return config.decay_factor ** sum(step >= share * steps for share in config.decay_at)
    if config.schedule == "plateau":
        return config.decay_factor ** _plateaus(losses, config.patience_steps)
    return 1.0


def one_cycle(step: int, steps: int) -> float:
    """Up along a cosine to 1, then down to nearly nothing (Smith 2018)."""
    top = CYCLE_WARM_UP * steps
    if step < top:
        share, low = step / top, START
    else:
        share, low = 1 - (step - top) / max(1.0, steps - 1 - top), END
    return low + (1 - low) * (1 - math.cos(math.pi * share)) / 2


def _warm_up(step: int, config: TrainingConfig) -> float:
    return min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0


def _plateaus(losses: Sequence[float], window: int) -> int:
    """The number of whole windows of losses whose mean was no better than the best before them."""
    whole = len(losses) // window
    if whole < 2:
        return 0
    means = np.asarray(losses[: whole * window]).reshape(whole, window).mean(axis=1)
    return int((means[1:] >= np.minimum.accumulate(means)[:-1]).sum())
