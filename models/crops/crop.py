"""Defines a training crop and the image that it is cut from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TrainingImage:
    """One image, decoded: `instance_map` int32 (H, W) is 0, cell i + 1, or IGNORE where nothing is learned."""

    pixels: NDArray[np.float32]
    instance_map: NDArray[np.int32]
    cell_class: NDArray[np.int64]  # (cells + 1,), by the number in `instance_map`: 0..cells
    cell_weight: NDArray[np.float32]  # (cells + 1,); background weighs 1
    cell_trust: NDArray[np.float32]  # (cells + 1,): 1 for human cells, else the calibrated confidence
    cell_area: NDArray[np.int64]  # (cells + 1,), in pixels, of what the instance map shows of each
    cell_box: Sequence[tuple[slice, ...] | None]  # (y, x) of the cells 1, 2, .. in the map; None: it shows nothing
