"""Small loops of a flow network on made batches, for the tests of training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from helpers.flow_batches import as_batch
from torch import nn

from cellsemi.models.flow.batch import FlowBatch
from cellsemi.models.flow.loss import flow_loss
from cellsemi.models.training.loop import LossParts, Trained


def a_batch(seed: int, classes: int = 1) -> FlowBatch:
    rng = np.random.default_rng(seed)
    inside = (rng.random((2, 32, 32)) > 0.5).astype(np.float32)
    angle = rng.random((2, 32, 32)) * 2 * np.pi
    flow = (np.stack([np.sin(angle), np.cos(angle)], 1) * inside[:, None]).astype(np.float32)
    return as_batch(
        images=rng.random((2, 1, 32, 32), np.float32),
        inside=inside,
        flow=flow,
        class_id=rng.integers(0, classes, (2, 32, 32)) * inside.astype(np.int64),
        weight=np.ones((2, 32, 32), np.float32),
    )


def made(step: int) -> FlowBatch:
    return a_batch(step, 3)


def loss_of(net: nn.Module, batch: FlowBatch, _: int) -> LossParts:
    return flow_loss(net(batch.images), batch)


def digest(trained: Trained) -> str:
    content = b"".join(name.encode() + value.numpy().tobytes() for name, value in sorted(trained.weights.items()))
    return hashlib.sha256(content).hexdigest()


def stop_at(when: int) -> Callable[[int, int], None]:
    def progress(step: int, steps: int) -> None:
        if step >= when:
            raise KeyboardInterrupt

    return progress
