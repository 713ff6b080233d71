"""Computes the loss of a flow network: three terms, each a weighted mean over the pixels that count in it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cellsemi.models.flow.batch import FlowBatch
from cellsemi.models.flow.outputs import FLOW_CHANNELS
from cellsemi.models.training.loop import LossParts
from cellsemi.models.training.losses import weighted_mean_of_batch

FLOW_SCALE = 2.0  # weight of the flow term
CLASS_SCALE = 0.5  # weight of the class term


def flow_loss(raw: Tensor, batch: FlowBatch) -> LossParts:
    """Loss of raw outputs (B, 3 + classes, P, P), float32, against a batch.

    `prob`: binary cross entropy of the cell probability, over all pixels with weight. `flow`: half the
    squared distance of the vectors, and `classes`: cross entropy, both over the pixels of cells. Each is
    the weighted mean; without any weight it is 0. A pixel of weight 0 changes neither value nor gradient.
    """
    prob = probability_loss(raw, batch)
    squared = (raw[:, 1:FLOW_CHANNELS] - batch.flow).square().sum(1) / 2
    flow = weighted_mean_of_batch(squared, batch.weight * batch.inside)
    classes = class_loss(raw, batch)
    total = prob + FLOW_SCALE * flow + CLASS_SCALE * classes
    return LossParts(total, {"prob": prob, "flow": flow, "class": classes})


def probability_loss(raw: Tensor, batch: FlowBatch) -> Tensor:
    """Binary cross entropy of the cell probability, over all pixels with weight."""
    entropy = functional.binary_cross_entropy_with_logits(raw[:, 0], batch.inside, reduction="none")
    return weighted_mean_of_batch(entropy, batch.weight)


def class_loss(raw: Tensor, batch: FlowBatch) -> Tensor:
    """Cross entropy of the classes over the pixels of cells; 0 where the network tells no classes apart."""
    if raw.shape[1] == FLOW_CHANNELS:
        return torch.zeros((), device=raw.device)
    entropy = functional.cross_entropy(raw[:, FLOW_CHANNELS:], batch.class_id, reduction="none")
    return weighted_mean_of_batch(entropy, batch.weight * batch.inside)
