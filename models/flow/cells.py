"""Turns the outputs of a flow network into scored cells with a class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import measured
from cellsemi.models.flow.outputs import FLOW_CHANNELS
from cellsemi.models.flow.recovery import flow_agreement, flow_errors, mean_inside, recover_labels
from cellsemi.models.flow.targets import FlowTarget
from cellsemi.rounds.cells import masks, rle
from cellsemi.rounds.cells.instances import Instances


@dataclass(frozen=True, slots=True)
class LabelledCells:
    """Cells as an int32 (H, W) label map, 1..N without gaps, with score float32 (N,) and class_id (N,).

    `flow_error` float64 (N,) is that of recovery.flow_errors. `background` (H, W) is where the network is sure that
    there is nothing, None where nobody asks. See models.base.Recovered.
    """

    labels: NDArray[np.int32]
    score: NDArray[np.float32]
    class_id: NDArray[np.int64]
    flow_error: NDArray[np.float64]
    background: NDArray[np.bool_] | None = None

    def select(self, kept: NDArray[np.bool_]) -> LabelledCells:
        """Some of the cells, `kept` (N,), in their order."""
        if kept.all():
            return self
        number = np.zeros(len(kept) + 1, np.int32)
        number[1:][kept] = np.arange(1, kept.sum() + 1)
        columns = {name: getattr(self, name)[kept] for name in ("score", "class_id", "flow_error")}
        return replace(self, labels=number[self.labels], **columns)

    def without_holes(self) -> LabelledCells:
        """The same with the holes of each cell filled, where no other cell lies in them."""
        labels = self.labels.copy()
        for number, place in enumerate(ndimage.find_objects(self.labels), start=1):
            part = labels[place]
            part[ndimage.binary_fill_holes(part == number) & (part == 0)] = number
        return replace(self, labels=labels)

    def measure(self) -> tuple[float, float, float]:
        """See models.base.Recovered."""
        area = np.bincount(self.labels.ravel(), minlength=len(self.score) + 1)[1:]
        return measured(self.score, area, self.labels)

    def encode(self) -> Instances:
        """See models.base.Recovered."""
        cells = masks.from_label_map(self.labels, class_id=self.class_id, score=self.score, state="predicted")
        return cells if self.background is None else cells.with_(background=rle.encode(self.background))


def cells_of(
    outputs: NDArray[np.float32],
    spread: NDArray[np.float32],
    inference: InferenceConfig,
    target: FlowTarget,
    one_class_per_image: bool,
    device: Any = "cpu",
) -> LabelledCells:
    """Cells of outputs (3 + classes, H, W) whose views differ by `spread` (H, W).

    The score of a cell is the product of three means over its mask, each in [0, 1]: its cell probability;
    the agreement of the flow with the flow that the mask itself would have (recovery.flow_errors, flow_agreement); and
    the agreement of the views, 1 - 2 x the standard deviation of the probability (.5 is the largest).
    Its class has the largest mean probability; with `one_class_per_image` every cell takes the class
    with the largest sum of probability x area x score. `device` as in targets.flow_targets.
    """
    probability, flow = outputs[0], outputs[1:FLOW_CHANNELS]
    labels = recover_labels(
        probability,
        flow,
        threshold=inference.pixel_probability,
        iterations=inference.flow_steps,
        min_area_px=inference.min_area_px,
    )
    n = int(labels.max(initial=0))
    errors = flow_errors(labels, flow, target, device)
    score = mean_inside(probability, labels, n) * flow_agreement(errors) * (1 - 2 * mean_inside(spread, labels, n))
    score = np.clip(score, 0, 1)
    classes = _classes(outputs[FLOW_CHANNELS:], labels, score, one_class_per_image)
    return LabelledCells(labels, score.astype(np.float32), classes, errors)


def _classes(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int32],
    score: NDArray[np.float64],
    one_class_per_image: bool,
) -> NDArray[np.int64]:
    n = len(score)
    if not len(probabilities) or not n:
        return np.zeros(n, np.int64)
    mean = np.stack([mean_inside(channel, labels, n) for channel in probabilities])  # (classes, n)
    if one_class_per_image:
        area = np.bincount(labels.ravel(), minlength=n + 1)[1:]
        return np.full(n, (mean * area * score).sum(1).argmax(), np.int64)
    found: NDArray[np.int64] = mean.argmax(0)
    return found
