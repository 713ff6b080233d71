"""Trains Detectron2's Mask R-CNN or Cascade, and loads a trained one.

They are trained by the loop of all models on crops of our shards; neither Detectron2's trainer nor a COCO file
is used. Detectron2 is not a requirement: users install it from its repository.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load as load_tensors

from cellsemi.configs.models import Detectron2Config
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import FitResult, FitTask, Progress, config_of
from cellsemi.models.detector.fit_and_predict import DetectorPredictor, fit_detector
from cellsemi.models.detector.given import class_count, refuse_unfinished, take_net
from cellsemi.models.detectron2_maskrcnn import weights
from cellsemi.models.detectron2_maskrcnn.explain import explained_parts
from cellsemi.models.detectron2_maskrcnn.names import CASCADE_SCORES, CLASS_SCORES
from cellsemi.models.detectron2_maskrcnn.net import PARTS, Network, build
from cellsemi.models.given import given_of, given_or_fail, take_folder
from cellsemi.models.model_files import StartWeights, read_model_file, read_weights
from cellsemi.models.training.device import pick_device


def fit(task: FitTask, progress: Progress) -> FitResult:
    """Train from scratch or from the stated weights, or go on from the checkpoint of the same task."""
    config = config_of(task.model, Detectron2Config)
    net, started_from = _network(task, config)
    return fit_detector(task, config, net, net.losses, progress, parts=PARTS, started_from=started_from)


def take(task: FitTask) -> FitResult:
    """Take a finished checkpoint as it is, all its classes; ModelError when it lacks a tensor of this network."""
    config = config_of(task.model, Detectron2Config)
    given = given_or_fail(task)
    found = take_folder(task, config, given)
    if found is not None:
        return found
    tensors = given.tensors()
    classes = class_count(tensors, CASCADE_SCORES if config.cascade else CLASS_SCORES, given.file)
    net = build(config, classes, task.seed, weights.is_scratch(tensors))
    refuse_unfinished(weights.start_from(net, tensors, given.file), given.file)
    return take_net(task, net, classes, config, given.stated(config, len(net.state_dict())))


def load(folder: Path, inference: InferenceConfig, device: str) -> DetectorPredictor:
    """The predictor of a folder that `fit` wrote; ModelError when a file is missing or altered."""
    about = read_model_file(folder)
    config = config_of(about.model, Detectron2Config)
    tensors = load_tensors(read_weights(folder))
    net = build(config, len(about.classes), seed=0, scratch=weights.is_scratch(tensors))
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


def _network(task: FitTask, config: Detectron2Config) -> tuple[Network, StartWeights | None]:
    """The network of a task, with the stated weights, if any, loaded into it."""
    given = given_of(task)
    if given is None:
        return build(config, len(task.classes), task.seed), None
    tensors = given.tensors()
    net = build(config, len(task.classes), task.seed, weights.is_scratch(tensors))
    return net, weights.start(net, given, tensors, task)
