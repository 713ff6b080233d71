"""Says how a step in a phase of a training trains: its learning rates, and which parts of the network.

The rates follow from the step and the losses so far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cellsemi.configs.training import TrainingConfig

CYCLE_WARM_UP = 0.15  # one-cycle: share of the steps in which the rate rises
START, END = 0.04, 0.001  # one-cycle: first and last rate, as shares of the peak


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates of one step."""

    head: float
    backbone: float


def rates(step: int, steps: int, config: TrainingConfig, losses: Sequence[float] = ()) -> Rates:
    """The rates of step `step` of a phase of `steps`, counted from 0.

    `losses` are what a plateau shows in: of the steps of the phase before this one, or the measured validation losses.
    """
    factor = course(step, steps, config, losses)
    return Rates(config.lr * factor, (config.backbone_lr or config.lr) * factor)


def course(step: int, steps: int, config: TrainingConfig, losses: Sequence[float] = ()) -> float:
    """The share of the peak rate in one phase of `steps` steps."""
    if config.schedule == "one-cycle":
        return one_cycle(step, steps)
    if step < config.warmup_steps:
        return _warm_up(step, config)
    if config.schedule == "cosine":
        left = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        return (1 + math.cos(math.pi * left)) / 2
    return float(config.decay_factor ** _decays(step, steps, config, losses))


def _decays(step: int, steps: int, config: TrainingConfig, losses: Sequence[float]) -> int:
    """How often the rate was multiplied by `decay_factor` before a step."""
    if config.schedule == "plateau":
        return _plateaus(losses, 1 if config.plateau_on == "validation" else config.patience_steps)
    if config.schedule != "step":
        return 0
    if config.decay_every_steps is not None:
        return step // config.decay_every_steps
    return sum(step >= share * steps for share in config.decay_at)


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


# --- parts of a network --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a network, each by the prefixes of the names of its weights.

    `body` has a learning rate of its own (`training.backbone_lr`); the `backbone` is the body and what lies between it
    and the heads; `predictors` are the last layers of the `heads`. `stages` are those of the body in the order of the
    data, from the stem on.
    """

    body: tuple[str, ...]
    backbone: tuple[str, ...]
    heads: tuple[str, ...]
    predictors: tuple[str, ...]
    stages: tuple[tuple[str, ...], ...] = ()

    def train(self, name: str, config: TrainingConfig) -> bool:
        """Whether the weight of this name trains."""
        if any(name.startswith(stage) for stage in self.stages[: config.freeze_at]):
            return False
        if config.frozen == "all-but-heads":
            return name.startswith(self.heads)
        if config.frozen == "all-but-predictors":
            return name.startswith(self.predictors)
        frozen = {"none": (), "body": self.body, "backbone": self.backbone}[config.frozen]
        return not name.startswith(frozen)


def freeze(net: nn.Module, parts: Parts | None, config: TrainingConfig, trainable: Sequence[str]) -> None:
    """Let those of the `trainable` weights train that the settings do not freeze; without parts all of them.

    A batch norm that does not train keeps its statistics, too.
    """
    trained = {name for name in trainable if parts is None or parts.train(name, config)}
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name in trained)
    for module in net.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            module.train(module.weight.requires_grad)


def thawed(config: TrainingConfig) -> TrainingConfig:
    """The same with nothing frozen, for a network without heads that could train alone."""
    phases = tuple(phase.model_copy(update={"frozen": None}) for phase in config.phases)
    return config.model_copy(update={"frozen": "none", "freeze_at": 0, "phases": phases})
