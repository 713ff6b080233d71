"""Builds the input and the targets of a flow network from crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellsemi.models.crops.crop import Crop
from cellsemi.models.crops.source import CropSource, ValidationCrops
from cellsemi.models.flow.targets import FlowTarget, flow_targets
from cellsemi.models.training.validation_loss import ValidationBatches
from cellsemi.rounds.cells.instance_map import IGNORE


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """B crops of side P with C channels."""

    images: Tensor  # (B, C, P, P) float32 in [0, 1]
    inside: Tensor  # (B, P, P) float32, 1 in cells
    flow: Tensor  # (B, 2, P, P) float32, unit vectors in cells
    class_id: Tensor  # (B, P, P) int64, of the cell; 0 outside of cells
    weight: Tensor  # (B, P, P) float32 >= 0; 0 leaves the loss


@dataclass(frozen=True, slots=True)
class FlowBatches:
    """The batch of each step, on the CPU."""

    source: CropSource | ValidationCrops
    target: FlowTarget

    def __call__(self, step: int) -> FlowBatch:
        """The batch of a step."""
        return flow_batch(self.source(step), self.target)


def validation_batches(crops: ValidationCrops | None, target: FlowTarget) -> ValidationBatches[FlowBatch] | None:
    """The same of validation images; None without crops."""
    return None if crops is None else ValidationBatches(FlowBatches(crops, target), crops.count)


def flow_batch(crops: Sequence[Crop], target: FlowTarget) -> FlowBatch:
    """The batch of some crops of one size."""
    images = [crop.pixels[None] if crop.pixels.ndim == 2 else np.moveaxis(crop.pixels, -1, 0) for crop in crops]
    cells = [np.maximum(crop.instance_map, 0) for crop in crops]
    return FlowBatch(
        images=_stacked(images),
        inside=_stacked([(inside > 0).astype(np.float32) for inside in cells]),
        flow=_stacked([flow_targets(inside, target) for inside in cells]),
        class_id=_stacked([crop.cell_class[inside] for crop, inside in zip(crops, cells, strict=True)]),
        weight=_stacked([_weight(crop, inside) for crop, inside in zip(crops, cells, strict=True)]),
    )


def _stacked(arrays: Sequence[NDArray[np.float32] | NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def _weight(crop: Crop, cells: NDArray[np.int32]) -> NDArray[np.float32]:
    return np.where(crop.instance_map == IGNORE, np.float32(0), crop.cell_weight[cells])
