"""Trains the flow-field U-Net, from scratch or from an earlier model, and predicts with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from torch import nn

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import FitResult, FitTask, Image, Progress, config_of
from cellsemi.models.crops.cell_size import cell_size_of
from cellsemi.models.crops.normalise import normalise
from cellsemi.models.crops.source import CropSource
from cellsemi.models.flow.batch import FlowBatch, FlowBatches, validation_batches
from cellsemi.models.flow.cells import LabelledCells, cells_of
from cellsemi.models.flow.loss import flow_loss
from cellsemi.models.flow.outputs import activate
from cellsemi.models.flow.predictor import FlowPredictor
from cellsemi.models.flow.targets import FlowTarget
from cellsemi.models.flow_unet.net import FlowNet, build, watched_parts
from cellsemi.models.given import given_of, given_or_fail, take_folder
from cellsemi.models.inference.activations import Watched
from cellsemi.models.inference.tiling import filled_up, run_tiled
from cellsemi.models.model_files import read_model_file, read_weights
from cellsemi.models.training.device import compute_settings, pick_device
from cellsemi.models.training.loop import Loop, LossParts
from cellsemi.models.training.result import write_result
from cellsemi.models.training.start import start_from_earlier, start_from_teacher


def fit(task: FitTask, progress: Progress) -> FitResult:
    """Train from scratch, from an earlier model or from a teacher, or go on from the checkpoint of the same task."""
    device = pick_device(task.device)
    model = config_of(task.model, FlowUnetConfig)
    size = cell_size_of(task)
    batches = FlowBatches(CropSource.of(task, model.augment, size), model.flow_target)
    net = build(model, task.classes, task.seed)
    given = given_of(task)
    started_from = None if given is None else start_from_earlier(net, given, task, model)
    start_from_teacher(net, task)

    def loss_of(net: nn.Module, batch: FlowBatch, _: int) -> LossParts:
        return flow_loss(net(batch.images.to(memory_format=torch.channels_last)).float(), batch)

    with compute_settings(task.training.threads):
        loop = Loop.of(task, net, device)
        validation = validation_batches(CropSource.on_validation(task, size), model.flow_target)
        trained = loop.run(batches, loss_of, progress, validation)
    result = write_result(task, trained, sum(p.numel() for p in net.parameters()), size, started_from)
    loop.clear()
    return result


def take(task: FitTask) -> FitResult:
    """Take a trained folder as it is; ModelError when the weights are none of cellsemi's."""
    model = config_of(task.model, FlowUnetConfig)
    given = given_or_fail(task)
    found = take_folder(task, model, given)
    if found is None:
        raise ModelError(
            f"weights {given.place}: no folder of `cellsemi model export`; flow-unet has no other weights that teach "
            "as they are"
        )
    return found


def load(folder: Path, inference: InferenceConfig, device: str) -> FlowUnetPredictor:
    """The predictor of a folder that `fit` wrote; ModelError when a file is missing or altered."""
    about = read_model_file(folder)
    model = config_of(about.model, FlowUnetConfig)
    net = build(model, about.classes, seed=0)
    net.load_state_dict(load_tensors(read_weights(folder)))
    return FlowUnetPredictor(
        net,
        about.cell_size.seen(inference),
        pick_device(device),
        stride=model.stride_px,
        target=model.flow_target,
        one_class_per_image=about.one_class_per_image,
    )


class FlowUnetPredictor(FlowPredictor):
    """A trained network and how it predicts images; see models.base.Predictor."""

    def __init__(
        self,
        net: FlowNet,
        inference: InferenceConfig,
        device: torch.device,
        *,
        stride: int,
        target: FlowTarget,
        one_class_per_image: bool,
    ) -> None:
        super().__init__(inference, device)
        self._net: FlowNet = net.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._stride = stride
        self._target, self._one_class_per_image = target, one_class_per_image

    def _pixels(self, image: Image) -> NDArray[np.float32]:
        return normalise(image)

    def _tiled(self, images: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        return run_tiled(images, self._forward, self._inference, self._stride, self._shared)

    def _parts(self) -> list[Watched]:
        return watched_parts(self._net)

    def _seen_by_network(self, window: NDArray[np.float32]) -> tuple[int, int]:
        filled = filled_up(window, self._stride)
        self._forward(filled[None])
        return filled.shape[0], filled.shape[1]

    def _cells(
        self, mean: NDArray[np.float32], spread: NDArray[np.float32], inference: InferenceConfig
    ) -> LabelledCells:
        return cells_of(mean, spread, inference, self._target, self._one_class_per_image)

    def _forward(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        images = torch.from_numpy(tiles)[:, None].to(self._device, memory_format=torch.channels_last)
        half = self._inference.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            raw = self._net(images)
        activated: NDArray[np.float32] = activate(raw.float()).cpu().numpy()
        return activated
