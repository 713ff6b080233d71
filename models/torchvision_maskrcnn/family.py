"""`torchvision-maskrcnn`: Mask R-CNN as teacher and student (He et al. 2017; systems B, D and E of docs/models.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from torch import nn

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import MaskRcnnConfig
from cellsemi.configs.training import InferenceConfig, TrainingConfig
from cellsemi.models import weight_files
from cellsemi.models.base import FitResult, FitTask, config_of
from cellsemi.models.detector.fit_and_predict import DetectorPredictor, fit_detector
from cellsemi.models.model_files import read_model_file, read_weights
from cellsemi.models.torchvision_maskrcnn.centre_boundary import map_makers
from cellsemi.models.torchvision_maskrcnn.net import BACKBONE, STRIDE, build
from cellsemi.models.torchvision_maskrcnn.weights import start_from
from cellsemi.models.training.device import pick_device

KIND = "torchvision-maskrcnn"


class MaskRcnnFamily:
    """The family behind `kind: torchvision-maskrcnn`; see models.base.Family."""

    def fit(self, task: FitTask, progress: Callable[[int, int], None]) -> FitResult:
        """Train from scratch or from the stated weights, or go on from the checkpoint of the same task."""
        config = config_of(task, MaskRcnnConfig)
        _refuse_small_crops(task.training, config.upscale)
        net = build(config, len(task.classes), task.seed)
        about = {"started_from": _start(net, config)}
        sigma_px = config.centre_sigma_px * config.upscale
        makers = map_makers(centre=config.centre_head, boundary=config.boundary_head, sigma_px=sigma_px)
        return fit_detector(task, config, net, net.losses, progress, backbone=BACKBONE, about=about, makers=makers)

    def load(self, folder: Path, inference: InferenceConfig, device: str) -> DetectorPredictor:
        """The predictor of a folder that `fit` wrote; ModelError when a file is missing or altered."""
        about = read_model_file(folder)
        config = MaskRcnnConfig.model_validate(about["model"])
        net = build(config, len(about["classes"]), seed=0)
        net.load_state_dict(load_tensors(read_weights(folder)))
        return DetectorPredictor(
            net,
            net.detect,
            config,
            inference,
            pick_device(device),
            one_class_per_image=about["one_class_per_image"],
        )


def _start(net: nn.Module, config: MaskRcnnConfig) -> dict[str, Any] | None:
    """Load the stated weights, if any; what the model file says of them."""
    if config.weights is None:
        return None
    file = weight_files.verify(config.weights, config.weights_sha256)
    new = start_from(net, weight_files.load_state(file.path), file.path)
    return {"weights": config.weights, "sha256": file.sha256, "random": new}


def _refuse_small_crops(training: TrainingConfig, upscale: float) -> None:
    """Batch norm needs two values a channel at the deepest level; ModelError when the crops have one."""
    side = -(-max(1, round(training.crop_px * upscale)) // STRIDE)
    if training.batch * side**2 < 2:
        raise ModelError(
            f"training.batch 1 with crops of {training.crop_px} px (upscale {upscale:g}) is too little for "
            f"{KIND}: raise training.batch to 2 or training.crop_px to {2 * STRIDE}"
        )


FAMILY = MaskRcnnFamily()
