"""`detectron2-maskrcnn`: Detectron2's Mask R-CNN or Cascade as teacher and student (systems A and C of docs/models.md).

It is trained by the loop of all models on crops of our shards; neither Detectron2's trainer nor a COCO file
is used. Detectron2 is not a requirement: users install it from its repository.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load as load_tensors

from cellsemi.configs.models import Detectron2Config
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import FitResult, FitTask, config_of
from cellsemi.models.detector.fit_and_predict import DetectorPredictor, fit_detector
from cellsemi.models.detectron2_maskrcnn import weights
from cellsemi.models.detectron2_maskrcnn.net import BACKBONE, build
from cellsemi.models.model_files import read_model_file, read_weights
from cellsemi.models.training.device import pick_device


class Detectron2Family:
    """The family behind `kind: detectron2-maskrcnn`; see models.base.Family."""

    def fit(self, task: FitTask, progress: Callable[[int, int], None]) -> FitResult:
        """Train from scratch or from the stated weights, or go on from the checkpoint of the same task."""
        config = config_of(task, Detectron2Config)
        net = build(config, len(task.classes), task.seed)
        about = {"started_from": weights.start(net, config)}
        return fit_detector(task, config, net, net.losses, progress, backbone=BACKBONE, about=about)

    def load(self, folder: Path, inference: InferenceConfig, device: str) -> DetectorPredictor:
        """The predictor of a folder that `fit` wrote; ModelError when a file is missing or altered."""
        about = read_model_file(folder)
        config = Detectron2Config.model_validate(about["model"])
        net = build(config, len(about["classes"]), seed=0)
        net.load_state_dict(load_tensors(read_weights(folder)))
        one_class = about["one_class_per_image"]
        return DetectorPredictor(net, net.detect, config, inference, pick_device(device), one_class_per_image=one_class)


FAMILY = Detectron2Family()
