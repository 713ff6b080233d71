"""Builds the input and the targets of a flow network from crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellsemi.models.crops.crop import Crop
from cellsemi.models.flow.targets import FlowTarget, flow_targets
from cellsemi.rounds.cells.instance_map import IGNORE


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """B crops of side P with C channels."""

    images: NDArray[np.float32]  # (B, C, P, P) in [0, 1]
    inside: NDArray[np.float32]  # (B, P, P), 1 in cells
    flow: NDArray[np.float32]  # (B, 2, P, P), unit vectors in cells
    class_id: NDArray[np.int64]  # (B, P, P), of the cell; 0 outside of cells
    weight: NDArray[np.float32]  # (B, P, P) >= 0; 0 leaves the loss


def flow_batch(crops: Sequence[Crop], target: FlowTarget) -> FlowBatch:
    """The batch of some crops of one size."""
    images = [crop.pixels[None] if crop.pixels.ndim == 2 else np.moveaxis(crop.pixels, -1, 0) for crop in crops]
    cells = [np.maximum(crop.instance_map, 0) for crop in crops]
    return FlowBatch(
        images=np.stack(images),
        inside=np.stack([(inside > 0).astype(np.float32) for inside in cells]),
        flow=np.stack([flow_targets(inside, target) for inside in cells]),
        class_id=np.stack([crop.cell_class[inside] for crop, inside in zip(crops, cells, strict=True)]),
        weight=np.stack([_weight(crop, inside) for crop, inside in zip(crops, cells, strict=True)]),
    )


def _weight(crop: Crop, cells: NDArray[np.int32]) -> NDArray[np.float32]:
    return np.where(crop.instance_map == IGNORE, np.float32(0), crop.cell_weight[cells])
