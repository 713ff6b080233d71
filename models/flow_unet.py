"""`flow-unet`: the embedded family. A compact flow-field U-Net, trained from scratch on a laptop."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models import base, flow_net
from cellsemi.models.base import FitResult, FitTask, Image
from cellsemi.models.crops import CropSource
from cellsemi.models.device import choose_precision, compute_settings, pick_device
from cellsemi.models.flow_batch import flow_batch
from cellsemi.models.flow_cells import cells_of
from cellsemi.models.flow_loss import flow_loss
from cellsemi.models.flows import Target
from cellsemi.models.normalise import normalise
from cellsemi.models.tiling import run_tiled
from cellsemi.models.training import Loop, LossParts, Trained
from cellsemi.models.tta import turn, turn_outputs_back
from cellsemi.rounds import files
from cellsemi.rounds.instances import Instances

KIND = "flow-unet"
LOSS_FILE = "loss.parquet"


class FlowUnetFamily:
    """The family behind `kind: flow-unet`; see models.base.Family."""

    def fit(self, task: FitTask, progress: Callable[[int, int], None]) -> FitResult:
        """Train from scratch, or go on from the checkpoint of the same task, into `task.out_dir`."""
        folder, device = Path(task.out_dir), pick_device(task.device)
        model = base.config_of(task, FlowUnetConfig)
        source = CropSource(
            [Path(path) for path in task.shards],
            crop_px=task.training.crop_px,
            batch=task.training.batch,
            human_fraction=task.training.human_fraction,
            ignore_dilation_px=task.ignore_dilation_px,
            augment=model.augment,
            seed=task.seed,
        )

        def loss_of(net: nn.Module, step: int) -> LossParts:
            batch = flow_batch(source(step), model.flow_target)
            images = torch.from_numpy(batch.images).to(device, memory_format=torch.channels_last)
            return flow_loss(net(images).float(), batch)

        with compute_settings(task.training.threads):
            loop = Loop(
                flow_net.build(model.width, task.classes, task.seed),
                task.training,
                steps=task.steps,
                folder=folder,
                fingerprint=task.fingerprint,
                precision=choose_precision(task.training.precision, device),
                device=device,
            )
            trained = loop.run(loss_of, progress)
        result = _write(folder, task, model, trained)
        loop.clear()
        return result

    def load(self, folder: Path, inference: InferenceConfig, device: str) -> FlowUnetPredictor:
        """The predictor of a folder that `fit` wrote; ModelError when a file is missing or altered."""
        about = base.read_model_file(folder)
        net = flow_net.build(about["width"], about["classes"], seed=0)
        net.load_state_dict(load_tensors(base.read_weights(folder)))
        return FlowUnetPredictor(
            net,
            inference,
            pick_device(device),
            target=about["flow_target"],
            one_class_per_image=about["one_class_per_image"],
        )


class FlowUnetPredictor:
    """A trained network with its way of looking at images; see models.base.Predictor."""

    def __init__(
        self,
        net: nn.Module,
        inference: InferenceConfig,
        device: torch.device,
        *,
        target: Target,
        one_class_per_image: bool,
    ) -> None:
        self.told: Counter[str] = Counter()
        self._net = net.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._inference, self._device = inference, device
        self._target, self._one_class_per_image = target, one_class_per_image

    def predict(self, images: Sequence[Image]) -> list[Instances]:
        """Cells of each (H, W) or (H, W, 3) image of any size: state `predicted`, score in [0, 1]."""
        with compute_settings(self._inference.threads), torch.inference_mode():
            return [self._predict(image) for image in images]

    def outputs(self, image: Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Mean over the views of the activated outputs (C, H, W), and spread (H, W) of the probability.

        The spread is the standard deviation between the views; zero with a single view.
        """
        pixels = normalise(image)
        views = self._inference.tta
        total: Any = 0.0
        squared: Any = 0.0
        for view in views:
            turned = np.ascontiguousarray(turn(pixels, view))
            outputs = run_tiled(turned, self._forward, self._inference, flow_net.STRIDE)
            outputs = turn_outputs_back(outputs, view)
            total = total + outputs
            squared = squared + outputs[0].astype(np.float64) ** 2
        mean = (total / np.float32(len(views))).astype(np.float32)
        variance = np.maximum(squared / len(views) - mean[0].astype(np.float64) ** 2, 0)
        return mean, np.sqrt(variance).astype(np.float32)

    def _predict(self, image: Image) -> Instances:
        mean, spread = self.outputs(image)
        return cells_of(mean, spread, self._inference, self._target, self._one_class_per_image)

    def _forward(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        images = torch.from_numpy(tiles)[:, None].to(self._device, memory_format=torch.channels_last)
        with torch.inference_mode():
            activated: NDArray[np.float32] = flow_net.activate(self._net(images)).cpu().numpy()
        return activated


def _write(folder: Path, task: FitTask, model: FlowUnetConfig, trained: Trained) -> FitResult:
    """Write the loss table, the weights, and MODEL_FILE last."""
    table = pa.Table.from_pylist([record.to_row() for record in trained.records])
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    files.write_bytes(folder / LOSS_FILE, buffer.getvalue())
    tail = trained.records[-max(1, len(trained.records) // 10) :]
    net = flow_net.build(model.width, task.classes, seed=0)
    result = FitResult(
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        steps=task.steps,
        loss=float(np.mean([record.loss for record in tail])),
        seconds=trained.seconds,
        resumed_at=trained.resumed_at,
    )
    about = {
        "name": model.name,
        "width": model.width,
        "flow_target": model.flow_target,
        "classes": list(task.classes),
        "one_class_per_image": task.one_class_per_image,
        "fingerprint": task.fingerprint,
        "training": {
            "steps": task.steps,
            "seed": task.seed,
            "loss": result.loss,
            "parameters": result.parameters,
        },
    }
    base.write_model_file(folder, KIND, save_tensors(trained.weights), about)
    return result


FAMILY = FlowUnetFamily()
