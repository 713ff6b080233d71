"""Measures the loss on validation images at a few points of a training.

It is a record and nothing else, unless the learning rate watches it (`training.plateau_on`). The same crops are
measured each time, by the weights that would be saved at that point, with the statistics of batch norm that they
learned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from cellsemi.models.training.ahead import MakeBatch

STEPS_PER_POINT, FEWEST, MOST = 50, 2, 10  # points: one in so many steps, within these bounds

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class ValidationBatches(Generic[B]):
    """The batches `make`(0), `make`(1) .. of fixed crops of the validation images."""

    make: MakeBatch[B]
    count: int


@dataclass(frozen=True, slots=True)
class ValidationRecord:
    """One row of validation_loss.parquet: the loss after `step` steps, and its parts by name."""

    step: int
    loss: float
    parts: Mapping[str, float]

    def to_row(self) -> dict[str, float]:
        """The columns step, loss, NAME_loss for each part."""
        return {"step": self.step, "loss": self.loss, **{f"{name}_loss": value for name, value in self.parts.items()}}


def points(steps: int) -> frozenset[int]:
    """The numbers of steps after which the loss is measured; the last is `steps`.

    >>> sorted(points(120)), sorted(points(300)), len(points(8000))
    ([60, 120], [50, 100, 150, 200, 250, 300], 10)
    """
    count = min(max(steps // STEPS_PER_POINT, FEWEST), MOST, steps)
    return frozenset(round(steps * k / count) for k in range(1, count + 1))


@contextlib.contextmanager
def measuring(net: nn.Module, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Inside, the network holds `weights` (None: its own), drops nothing and learns no statistics.

    Afterwards it is as it was, to the bit: weights, buffers, and which of its parts are in training.
    """
    modes = [(module, module.training) for module in net.modules()]
    own = net.state_dict()
    kept = {} if weights is None else {name: value.clone() for name, value in own.items()}
    net.eval()
    with torch.no_grad():
        for name, value in (weights or {}).items():
            own[name].copy_(value)
        try:
            yield
        finally:
            for name, value in kept.items():
                own[name].copy_(value)
            for module, training in modes:
                module.training = training
