"""Computes the loss of a flow network: three terms, each a weighted mean over the pixels that count in it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cellsemi.models.flow.batch import FlowBatch
from cellsemi.models.flow.outputs import FLOW_CHANNELS
from cellsemi.models.training.loop import LossParts
from cellsemi.models.training.losses import weighted_mean

FLOW_SCALE = 2.0  # weight of the flow term
CLASS_SCALE = 0.5  # weight of the class term


def flow_loss(raw: Tensor, batch: FlowBatch) -> LossParts:
    """Loss of raw outputs (B, 3 + classes, P, P), float32, against a batch.

    `prob`: binary cross entropy of the cell probability, over all pixels with weight. `flow`: half the
    squared distance of the vectors, and `classes`: cross entropy, both over the pixels of cells. Each is
    the weighted mean; without any weight it is 0. A pixel of weight 0 changes neither value nor gradient.
    """
    device = raw.device
    weight = torch.from_numpy(batch.weight).to(device)
    inside = torch.from_numpy(batch.inside).to(device)
    flow_target = torch.from_numpy(batch.flow).to(device)
    prob = weighted_mean(functional.binary_cross_entropy_with_logits(raw[:, 0], inside, reduction="none"), weight)
    squared = (raw[:, 1:FLOW_CHANNELS] - flow_target).square().sum(1) / 2
    flow = weighted_mean(squared, weight * inside)
    classes = torch.zeros((), device=device)
    if raw.shape[1] > FLOW_CHANNELS:
        class_id = torch.from_numpy(batch.class_id).to(device)
        entropy = functional.cross_entropy(raw[:, FLOW_CHANNELS:], class_id, reduction="none")
        classes = weighted_mean(entropy, weight * inside)
    total = prob + FLOW_SCALE * flow + CLASS_SCALE * classes
    return LossParts(total, {"prob": prob, "flow": flow, "class": classes})
