"""Trains a box detector, whatever its network, and predicts images of any size with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellsemi.configs.models import DetectorConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import FitResult, FitTask, Image, Progress
from cellsemi.models.crops.cell_size import cell_size_of
from cellsemi.models.crops.normalise import normalise
from cellsemi.models.crops.source import CropSource
from cellsemi.models.detector.detections import Detections
from cellsemi.models.detector.draw_masks import cells_in_boxes
from cellsemi.models.detector.merge_windows import detect_everywhere
from cellsemi.models.detector.targets import DetectorBatch, DetectorBatches, MapMaker, resized
from cellsemi.models.model_files import StartWeights
from cellsemi.models.training.device import compute_settings, pick_device, seeded
from cellsemi.models.training.loop import Loop, LossParts
from cellsemi.models.training.result import write_result
from cellsemi.models.training.start import start_from_teacher
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.seeds import derive_seed

Losses = Callable[[DetectorBatch], tuple[Tensor, Mapping[str, Tensor]]]  # what a step minimises, and its parts by name
DetectImage = Callable[[Tensor], tuple[Detections, bool]]  # image (3, h, w) in [0, 1]; were proposals cut off?


def fit_detector(
    task: FitTask,
    config: DetectorConfig,
    net: nn.Module,
    losses: Losses,
    progress: Progress,
    *,
    backbone: str,
    started_from: StartWeights | None,
    makers: Mapping[str, MapMaker] | None = None,
) -> FitResult:
    """Train `net` by its `losses`, or go on from the checkpoint of the same task, into `task.out_dir`.

    `backbone` is the prefix of the weights that a first stage leaves frozen; `makers` draw the maps of extra
    heads; `started_from` goes into the model file.
    """
    device = pick_device(task.device)
    start_from_teacher(net, task)
    size = cell_size_of(task)
    source = CropSource.of(task, config.augment, size, channels=3)

    def loss_of(_: nn.Module, batch: DetectorBatch, step: int) -> LossParts:
        batch = replace(batch, images=batch.images.to(memory_format=torch.channels_last))
        with seeded(derive_seed(task.seed, "sampling", step), device):
            return LossParts(*losses(batch))

    with compute_settings(task.training.threads):
        loop = Loop.of(task, net, device, backbone=backbone)
        trained = loop.run(DetectorBatches(source, config.upscale, makers or {}), loss_of, progress)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    result = write_result(task, trained, parameters, size, started_from)
    loop.clear()
    return result


class DetectorPredictor:
    """A trained detector and how it predicts images; see models.base.Predictor."""

    def __init__(
        self,
        net: nn.Module,
        detect: DetectImage,
        config: DetectorConfig,
        inference: InferenceConfig,
        device: torch.device,
        *,
        one_class_per_image: bool,
    ) -> None:
        self.warnings: Counter[str] = Counter()
        net.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._detect, self._config, self._inference, self._device = detect, config, inference, device
        self._one_class_per_image = one_class_per_image

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        """Cells of each (H, W) or (H, W, 3) image of any size: state `predicted`, score in [0, 1].

        The score of a cell is its box score times the mean probability of its mask's pixels, averaged over
        the views.
        """
        with compute_settings(self._inference.threads):
            return [self._predict(image, scale) for image in images]

    def detect(self, pixels: NDArray[np.float32]) -> Instances:
        """The cells of one window (h, w, 3) in [0, 1]; `warnings` counts the caps that were reached."""
        height, width = pixels.shape[:2]
        enlarged = resized(pixels, self._config.upscale)
        image = torch.from_numpy(np.ascontiguousarray(enlarged.transpose(2, 0, 1))).to(self._device)
        with torch.inference_mode():
            found, proposals_capped = self._detect(image)
        if found.capped:
            cap = self._config.max_detections
            self.warnings[f"the cap of {cap} detections a tile (max_detections) was reached: cells may be missing"] += 1
        if proposals_capped:
            cap = self._config.rpn_proposals
            self.warnings[f"the cap of {cap} proposals a tile (rpn_proposals) was reached: cells may be missing"] += 1
        back = np.array([width / enlarged.shape[1], height / enlarged.shape[0]] * 2)
        return cells_in_boxes(
            height,
            width,
            found.boxes.cpu().numpy() * back,
            found.masks.cpu().numpy(),
            found.scores.cpu().numpy(),
            found.labels.cpu().numpy() - 1,
        )

    def _predict(self, image: Image, scale: float) -> Instances:
        cells = detect_everywhere(normalise(image, 3), self._inference.scaled(scale), self.detect)
        if self._one_class_per_image and len(cells):
            votes = np.bincount(cells.class_id, weights=cells.area * cells.score)
            return cells.with_(class_id=votes.argmax())
        return cells
