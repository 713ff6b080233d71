"""Batches of a flow network from arrays."""

from typing import Any

import torch

from cellsemi.models.flow.batch import FlowBatch


def as_batch(images: Any, inside: Any, flow: Any, class_id: Any, weight: Any) -> FlowBatch:
    """A batch of tensors, of what are tensors or arrays."""
    return FlowBatch(*(torch.as_tensor(each) for each in (images, inside, flow, class_id, weight)))
