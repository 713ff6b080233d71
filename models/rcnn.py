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
from cellsemi.models import base, rcnn_net, weights
from cellsemi.models.base import FitResult, FitTask
from cellsemi.models.centre_boundary import map_makers
from cellsemi.models.detector import DetectorPredictor, fit_detector
from cellsemi.models.device import pick_device
from cellsemi.models.rcnn_weights import start_from

KIND = "torchvision-maskrcnn"


class MaskRcnnFamily:
    """The family behind `kind: torchvision-maskrcnn`; see models.base.Family."""

    def fit(self, task: FitTask, progress: Callable[[int, int], None]) -> FitResult:
        """Train from scratch or from the stated weights, or go on from the checkpoint of the same task."""
        config = base.config_of(task, MaskRcnnConfig)
        _refuse_small_crops(task.training, config.upscale)
        net = rcnn_net.build(config, len(task.classes), task.seed)
        about = {"started_from": _start(net, config)}
        sigma_px = config.centre_sigma_px * config.upscale
        makers = map_makers(centre=config.centre_head, boundary=config.boundary_head, sigma_px=sigma_px)
        return fit_detector(
            task, config, net, net.losses, progress, backbone=rcnn_net.BACKBONE, about=about, makers=makers
        )

    def load(self, folder: Path, inference: InferenceConfig, device: str) -> DetectorPredictor:
        """The predictor of a folder that `fit` wrote; ModelError when a file is missing or altered."""
        about = base.read_model_file(folder)
        config = MaskRcnnConfig.model_validate(about["model"])
        net = rcnn_net.build(config, len(about["classes"]), seed=0)
        net.load_state_dict(load_tensors(base.read_weights(folder)))
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
    file = weights.verify(config.weights, config.weights_sha256)
    new = start_from(net, weights.load_state(file.path), file.path)
    return {"weights": config.weights, "sha256": file.sha256, "random": new}


def _refuse_small_crops(training: TrainingConfig, upscale: float) -> None:
    """Batch norm needs two values a channel at the deepest level; ModelError when the crops have one."""
    side = -(-max(1, round(training.crop_px * upscale)) // rcnn_net.STRIDE)
    if training.batch * side**2 < 2:
        raise ModelError(
            f"training.batch 1 with crops of {training.crop_px} px (upscale {upscale:g}) is too little for "
            f"{KIND}: raise training.batch to 2 or training.crop_px to {2 * rcnn_net.STRIDE}"
        )


FAMILY = MaskRcnnFamily()
