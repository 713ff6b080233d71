"""Defines the detections of one image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Detections:
    """The n detections of one image, best first: half-open boxes, box scores, class + 1, mask probabilities."""

    boxes: Tensor  # (n, 4) float32
    scores: Tensor  # (n,) float32
    labels: Tensor  # (n,) int64
    masks: Tensor  # (n, M, M) float32
    capped: bool  # `max_detections` was reached
