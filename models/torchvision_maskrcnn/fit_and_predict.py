"""Trains Mask R-CNN of torchvision's parts, and loads a trained one (He et al. 2017)."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load as load_tensors
from torch import nn

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import MaskRcnnConfig
from cellsemi.configs.training import InferenceConfig, TrainingConfig
from cellsemi.models import weight_files
from cellsemi.models.base import FitResult, FitTask, Progress, config_of
from cellsemi.models.detector.fit_and_predict import DetectorPredictor, fit_detector
from cellsemi.models.model_files import StartWeights, read_model_file, read_weights
from cellsemi.models.torchvision_maskrcnn.centre_boundary import map_makers
from cellsemi.models.torchvision_maskrcnn.net import BACKBONE, STRIDE, build
from cellsemi.models.torchvision_maskrcnn.weights import start_from
from cellsemi.models.training.device import pick_device


def fit(task: FitTask, progress: Progress) -> FitResult:
    """Train from scratch or from the stated weights, or go on from the checkpoint of the same task."""
    config = config_of(task.model, MaskRcnnConfig)
    _refuse_small_crops(task.training, config.upscale)
    net = build(config, len(task.classes), task.seed)
    started_from = _start(net, config)
    sigma_px = config.centre_sigma_px * config.upscale
    makers = map_makers(centre=config.centre_head, boundary=config.boundary_head, sigma_px=sigma_px)
    return fit_detector(
        task, config, net, net.losses, progress, backbone=BACKBONE, started_from=started_from, makers=makers
    )


def load(folder: Path, inference: InferenceConfig, device: str) -> DetectorPredictor:
    """The predictor of a folder that `fit` wrote; ModelError when a file is missing or altered."""
    about = read_model_file(folder)
    config = config_of(about.model, MaskRcnnConfig)
    net = build(config, len(about.classes), seed=0)
    net.load_state_dict(load_tensors(read_weights(folder)))
    return DetectorPredictor(
        net,
        net.detect,
        config,
        inference.scaled(about.cell_size.scale),
        pick_device(device),
        one_class_per_image=about.one_class_per_image,
    )


def _start(net: nn.Module, config: MaskRcnnConfig) -> StartWeights | None:
    """Load the stated weights, if any, into the network."""
    if config.weights is None:
        return None
    file = weight_files.verify(config.weights, config.weights_sha256)
    new = start_from(net, weight_files.load_state(file.path), file.path)
    return StartWeights(weights=config.weights, sha256=file.sha256, random=tuple(new))


def _refuse_small_crops(training: TrainingConfig, upscale: float) -> None:
    """Batch norm needs two values a channel at the deepest level; ModelError when the crops have one."""
    side = -(-max(1, round(training.crop_px * upscale)) // STRIDE)
    if training.batch * side**2 < 2:
        raise ModelError(
            f"training.batch 1 with crops of {training.crop_px} px (upscale {upscale:g}) is too little for "
            f"torchvision-maskrcnn: raise training.batch to 2 or training.crop_px to {2 * STRIDE}"
        )
