"""Predicts images with a flow network, whatever it is: views, scales and cell-probability thresholds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import NOT_FINITE, Image
from cellsemi.models.flow.view_average import mean_of_views
from cellsemi.models.training.device import compute_settings
from cellsemi.rounds.cells import rle
from cellsemi.rounds.cells.instances import Instances

Outputs = NDArray[np.float32]
BROKEN_PIXEL = "a pixel of the network's output is not finite"


class FlowPredictor(ABC):
    """See models.base.ProbabilityPredictor. A family defines the input of its network, its outputs and its cells."""

    def __init__(self, inference: InferenceConfig) -> None:
        self.warnings: Counter[str] = Counter()
        self._inference = inference

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        """Cells of each (H, W) or (H, W, 3) image of any size: state `predicted`, score in [0, 1]."""
        with compute_settings(self._inference.threads), torch.inference_mode():
            return [self._predict(image, scale) for image in images]

    def at_probabilities(
        self, image: Image, probabilities: Sequence[float], scale: float = 1.0
    ) -> tuple[list[Instances], Outputs]:
        """The cells of one image at each cell-probability threshold, and the probability (H, W); see models.base."""
        with compute_settings(self._inference.threads), torch.inference_mode():
            mean, spread = self.outputs(image, scale)
            return [self._cells(mean, spread, self._inference.at_probability(p)) for p in probabilities], mean[0]

    def _predict(self, image: Image, scale: float) -> Instances:
        mean, spread = self.outputs(image, scale)
        cells, below = self._cells(mean, spread, self._inference), self._inference.background_probability
        return cells if below is None else cells.with_(background=rle.encode(mean[0] < below))

    def outputs(self, image: Image, scale: float = 1.0) -> tuple[Outputs, Outputs]:
        """Mean over scales and views of the activated outputs (C, H, W), and spread (H, W) of the probability.

        A pixel that is not finite in one of them is 0 in all, so no cell, and `warnings` counts it and the image.
        """
        mean, spread = mean_of_views(self._pixels(image), self._inference.scaled(scale), self._tiled)
        broken = ~(np.isfinite(mean).all(axis=0) & np.isfinite(spread))
        if broken.any():
            self.warnings[NOT_FINITE] += 1
            self.warnings[BROKEN_PIXEL] += int(broken.sum())
            mean, spread = np.where(broken, np.float32(0), mean), np.where(broken, np.float32(0), spread)
        return mean, spread

    @abstractmethod
    def _pixels(self, image: Image) -> Outputs:
        """(H, W) or (H, W, 3) as the network takes it."""

    @abstractmethod
    def _tiled(self, pixels: Outputs) -> Outputs:
        """Activated outputs (C, H, W) of pixels of any size."""

    @abstractmethod
    def _cells(self, mean: Outputs, spread: Outputs, inference: InferenceConfig) -> Instances:
        """The cells of outputs and their spread."""
