"""Turns the outputs of a flow network into scored cells with a class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.flow.outputs import FLOW_CHANNELS
from cellsemi.models.flow.recovery import flow_agreement, mean_inside, recover_labels
from cellsemi.models.flow.targets import FlowTarget
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances


def cells_of(
    outputs: NDArray[np.float32],
    spread: NDArray[np.float32],
    inference: InferenceConfig,
    target: FlowTarget,
    one_class_per_image: bool,
) -> Instances:
    """Cells of outputs (3 + classes, H, W) whose views differ by `spread` (H, W).

    The score of a cell is the product of three means over its mask, each in [0, 1]: its cell probability;
    the agreement of the flow with the flow that the mask itself would have (recovery.flow_agreement); and
    the agreement of the views, 1 - 2 x the standard deviation of the probability (.5 is the largest).
    Its class has the largest mean probability; with `one_class_per_image` every cell takes the class
    with the largest sum of probability x area x score.
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
    score = (
        mean_inside(probability, labels, n)
        * flow_agreement(labels, flow, target)
        * (1 - 2 * mean_inside(spread, labels, n))
    )
    score = np.clip(score, 0, 1)
    classes = _classes(outputs[FLOW_CHANNELS:], labels, score, one_class_per_image)
    return masks.from_label_map(labels, class_id=classes, score=score, state="predicted")


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
