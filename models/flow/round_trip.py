"""Measures how many ground-truth cells survive a flow target."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.models.flow.targets import FlowTarget, flow_targets
from cellsemi.rounds.cells import masks


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """What is left of the true cells of one image after targets and recovery: the ceiling of a network."""

    cells: int
    recovered_50: int  # cells whose best recovered mask has IoU > .5, > .75, > .9
    recovered_75: int
    recovered_90: int
    found: int  # masks that the recovery made; more than `cells` means that cells were split
    iou_sum: float  # over the cells, of the best IoU
    target_s: float
    recover_s: float

    @property
    def mean_iou(self) -> float:
        """Mean best IoU of the true cells; 1 when there are none."""
        return self.iou_sum / self.cells if self.cells else 1.0


def round_trip(labels: NDArray[Any], target: FlowTarget, iterations: int | None = None) -> RoundTrip:
    """Truth -> flow targets -> recovered masks -> IoU with the truth, for one (H, W) label map."""
    from cellsemi.models.flow.recovery import ITERATIONS, recover_labels

    started = time.perf_counter()
    flow = flow_targets(labels, target)
    between = time.perf_counter()
    found = recover_labels((labels > 0).astype(np.float32), flow, iterations=iterations or ITERATIONS)
    ended = time.perf_counter()
    truth, made = masks.from_label_map(labels), masks.from_label_map(found)
    pairs, _, _ = masks.pair_overlap(truth, made)
    _, best = pairs.best()
    return RoundTrip(
        cells=len(truth),
        recovered_50=int((best > 0.5).sum()),
        recovered_75=int((best > 0.75).sum()),
        recovered_90=int((best > 0.9).sum()),
        found=len(made),
        iou_sum=float(best.sum()),
        target_s=between - started,
        recover_s=ended - between,
    )
