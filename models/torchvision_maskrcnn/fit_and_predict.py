"""Trains Mask R-CNN of torchvision's parts, and loads a trained one (He et al. 2017)."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load as load_tensors

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import MaskRcnnConfig
from cellsemi.configs.training import InferenceConfig, TrainingConfig
from cellsemi.models.base import FitResult, FitTask, Progress, config_of
from cellsemi.models.detector.fit_and_predict import DetectorPredictor, fit_detector
from cellsemi.models.detector.given import class_count, refuse_unfinished, take_net
from cellsemi.models.given import given_of, given_or_fail, take_folder
from cellsemi.models.model_files import StartWeights, read_model_file, read_weights
from cellsemi.models.torchvision_maskrcnn.centre_boundary import map_makers
from cellsemi.models.torchvision_maskrcnn.explain import explained_parts
from cellsemi.models.torchvision_maskrcnn.net import PARTS, STRIDE, MaskRcnn, build
from cellsemi.models.torchvision_maskrcnn.weights import form_of, start, start_from
from cellsemi.models.training.device import pick_device

CLASS_SCORES = "roi_heads.box_predictor.cls_score.weight"  # (classes + background, features)


def fit(task: FitTask, progress: Progress) -> FitResult:
    """Train from scratch or from the stated weights, or go on from the checkpoint of the same task."""
    config = config_of(task.model, MaskRcnnConfig)
    _refuse_small_crops(task.training, config.upscale)
    net, started_from = _network(task, config)
    sigma_px = config.centre_sigma_px * config.upscale
    makers = map_makers(centre=config.centre_head, boundary=config.boundary_head, sigma_px=sigma_px)
    return fit_detector(task, config, net, net.losses, progress, parts=PARTS, started_from=started_from, makers=makers)


def take(task: FitTask) -> FitResult:
    """Take a finished checkpoint as it is, all its classes; ModelError when it lacks a tensor of this network."""
    config = config_of(task.model, MaskRcnnConfig)
    given = given_or_fail(task)
    found = take_folder(task, config, given)
    if found is not None:
        return found
    tensors = given.tensors()
    classes = class_count(tensors, CLASS_SCORES, given.file)
    net = build(config, classes, task.seed, form_of(config, tensors))
    refuse_unfinished(start_from(net, tensors, given.file), given.file)
    return take_net(task, net, classes, config, given.stated(config, len(net.state_dict())))


def load(folder: Path, inference: InferenceConfig, device: str) -> DetectorPredictor:
    """The predictor of a folder that `fit` wrote; ModelError when a file is missing or altered."""
    about = read_model_file(folder)
    config = config_of(about.model, MaskRcnnConfig)
    tensors = load_tensors(read_weights(folder))
    net = build(config, len(about.classes), seed=0, form=form_of(config, tensors))
    net.load_state_dict(tensors)
    return DetectorPredictor(
        net,
        net.detect,
        config,
        about.cell_size.seen(inference),
        pick_device(device),
        one_class_per_image=about.one_class_per_image,
        parts=explained_parts(net),
    )


def _network(task: FitTask, config: MaskRcnnConfig) -> tuple[MaskRcnn, StartWeights | None]:
    """The network of a task, with the stated weights, if any, loaded into it."""
    given = given_of(task)
    if given is None:
        return build(config, len(task.classes), task.seed), None
    tensors = given.tensors()
    net = build(config, len(task.classes), task.seed, form_of(config, tensors))
    return net, start(net, given, tensors, task)


def _refuse_small_crops(training: TrainingConfig, upscale: float) -> None:
    """Batch norm needs two values a channel at the deepest level; ModelError when the crops have one."""
    side = -(-max(1, round(training.crop_px * upscale)) // STRIDE)
    if training.batch * side**2 < 2:
        raise ModelError(
            f"training.batch 1 with crops of {training.crop_px} px (upscale {upscale:g}) is too little for "
            f"torchvision-maskrcnn: raise training.batch to 2 or training.crop_px to {2 * STRIDE}"
        )
