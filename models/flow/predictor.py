"""Predicts images with a flow network, whatever it is: views, scales and cell-probability thresholds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import NOT_FINITE, Begun, Image
from cellsemi.models.explanation import Explanation
from cellsemi.models.flow.cells import LabelledCells
from cellsemi.models.flow.explain import Reasons, dropped_cells, explain_outputs, watch_window
from cellsemi.models.flow.view_average import mean_of_views
from cellsemi.models.inference.activations import Watched
from cellsemi.models.inference.less_memory import at_once
from cellsemi.models.inference.tiling import SHARED_BATCH_PX
from cellsemi.models.training.device import compute_settings
from cellsemi.rounds.cells.instances import Instances

Outputs = NDArray[np.float32]
IMAGES_AT_ONCE = 8  # on a GPU; the network takes their windows in batches of SHARED_BATCH_PX
BROKEN_PIXEL = "a pixel of the network's output is not finite"


class FlowPredictor(ABC):
    """See models.base: ProbabilityPredictor, StagedPredictor.

    A family defines the input of its network, its outputs and its cells.
    """

    def __init__(self, inference: InferenceConfig, device: torch.device) -> None:
        self.warnings: Counter[str] = Counter()
        self._inference, self._device = inference, device
        self._shared = device.type != "cpu"  # on a CPU the bits of an output depend on the batch that it is in
        self.images_at_once = IMAGES_AT_ONCE if self._shared else 1

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        """Cells of each (H, W) or (H, W, 3) image of any size: state `predicted`, score in [0, 1]."""
        found = []
        with compute_settings(self._inference.threads):
            for start in range(0, len(images), self.images_at_once):
                some = [self.prepare(image) for image in images[start : start + self.images_at_once]]
                found += [begun.recover().encode() for begun in self.begin(some, (), scale)]
        return found

    def at_probabilities(
        self, image: Image, probabilities: Sequence[float], scale: float = 1.0
    ) -> tuple[list[Instances], Outputs]:
        """The cells of one image at each cell-probability threshold, and the probability (H, W); see models.base."""
        with compute_settings(self._inference.threads):
            mean, spread = self.outputs(image, scale)
            settings = [self._inference.at_probability(each) for each in probabilities]
            return [self._cells(mean, spread, each).encode() for each in settings], mean[0]

    def prepare(self, image: Image) -> Outputs:
        """See models.base.StagedPredictor."""
        return self._pixels(image)

    def begin(self, prepared: Sequence[Outputs], image_ids: Sequence[str], scale: float) -> list[Begun]:
        """See models.base.StagedPredictor."""
        found = []
        with compute_settings(self._inference.threads), torch.inference_mode():
            for mean, spread in self._means(prepared, scale):
                kept = self._finite(mean, spread)
                found.append(Begun(partial(self._recover, *kept), broken=kept[0] is not mean))
        return found

    def explain(self, image: Image, scale: float = 1.0) -> Explanation:
        """The outputs of the network, its parts for one window, and the cells that were left out; see `Explains`."""
        with compute_settings(self._inference.threads), torch.inference_mode():
            mean, spread = self.outputs(image, scale)
            cells = self._recover(mean, spread).encode()
            views = len(self._inference.tta) * len(self._inference.scales)
            inference = self._one_window(self._inference.scaled(scale).on_image(cells.height, cells.width))
            seen = watch_window(self.prepare(image), cells, inference, self._parts(), self._seen_by_network)
        return Explanation(
            cells,
            maps=(*explain_outputs(mean, spread, views), *seen.maps),
            activations=seen.activations,
            dropped=dropped_cells(self._left_out(mean, spread)),
            notes=seen.notes,
        )

    def outputs(self, image: Image, scale: float = 1.0) -> tuple[Outputs, Outputs]:
        """Mean over scales and views of the activated outputs (C, H, W), and spread (H, W) of the probability.

        A pixel that is not finite in one of them is 0 in all, so no cell, and `warnings` counts it and the image.
        """
        with torch.inference_mode():
            ((mean, spread),) = self._means([self.prepare(image)], scale)
        return self._finite(mean, spread)

    def _means(self, prepared: Sequence[Outputs], scale: float) -> list[tuple[Outputs, Outputs]]:
        at_once_px = at_once(SHARED_BATCH_PX) if self._shared else 0
        return mean_of_views(prepared, self._inference.scaled(scale), self._tiled, at_once_px)

    def _finite(self, mean: Outputs, spread: Outputs) -> tuple[Outputs, Outputs]:
        """The same outputs where all are finite, else others with 0 in the broken pixels, which are counted."""
        broken = ~(np.isfinite(mean).all(axis=0) & np.isfinite(spread))
        if not broken.any():
            return mean, spread
        self.warnings[NOT_FINITE] += 1
        self.warnings[BROKEN_PIXEL] += int(broken.sum())
        return np.where(broken, np.float32(0), mean), np.where(broken, np.float32(0), spread)

    def _recover(self, mean: Outputs, spread: Outputs) -> LabelledCells:
        cells, below = self._cells(mean, spread, self._inference), self._inference.background_probability
        if self._inference.fill_holes:
            cells = cells.without_holes()
        return cells if below is None else replace(cells, background=mean[0] < below)

    def _left_out(self, mean: Outputs, spread: Outputs) -> Reasons:
        """Cells that were found and are none, with the reason of each."""
        least = self._inference.min_area_px
        every = self._cells(mean, spread, self._inference.model_copy(update={"min_area_px": 1}))
        area = np.bincount(every.labels.ravel(), minlength=len(every.score) + 1)[1:]
        return [
            (
                every.select(area < least),
                [f"{px} px, fewer than inference.min_area_px {least}" for px in area[area < least].tolist()],
            )
        ]

    def _one_window(self, inference: InferenceConfig) -> InferenceConfig:
        """The windows in which the network sees an image."""
        return inference

    def _parts(self) -> Sequence[Watched]:
        """The parts of the network that an explanation shows, in the order of the data."""
        return ()

    def _seen_by_network(self, window: Outputs) -> tuple[int, int]:
        """Run the network on one window, if it has parts; returns the size of what it was given, margin included."""
        return window.shape[0], window.shape[1]

    @abstractmethod
    def _pixels(self, image: Image) -> Outputs:
        """(H, W) or (H, W, 3) as the network takes it."""

    @abstractmethod
    def _tiled(self, images: list[Outputs]) -> list[Outputs]:
        """Activated outputs (C, H, W) of the pixels of each image, of any size; `_shared`: batches may hold several."""

    @abstractmethod
    def _cells(self, mean: Outputs, spread: Outputs, inference: InferenceConfig) -> LabelledCells:
        """The cells of outputs and their spread; in any thread."""
