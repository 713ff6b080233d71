"""Fine-tunes Cellpose 4's network from weights that the user has, and predicts with it (Pachitariu et al. 2025).

The network is used directly: our tiles, views, recovery and scores, Cellpose's own scaling of images, loss
and flow target. `CellposeModel` is not: it takes the stock model for a file that is missing. On a GPU it
computes in bfloat16, as Cellpose does, on the CPU in float32 (several seconds for a tile: a model for GPUs).

Seven views are often quoted for it (identity, both flips, both flips together, three rotations); both flips
together are the rotation by 180 degrees, so the six `View`s are all of them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import Tensor

from cellsemi.configs.models import CellposeSamConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import FitResult, FitTask, Image, Progress, config_of
from cellsemi.models.cellpose_sam import parts
from cellsemi.models.cellpose_sam.attention import watched_parts
from cellsemi.models.cellpose_sam.parts import CellposeCrops, CellposeNet
from cellsemi.models.crops.cell_size import cell_size_of
from cellsemi.models.flow.batch import FlowBatch, FlowBatches, validation_batches
from cellsemi.models.flow.cells import LabelledCells, cells_of
from cellsemi.models.flow.explain import Reasons
from cellsemi.models.flow.outputs import activate
from cellsemi.models.flow.predictor import FlowPredictor
from cellsemi.models.given import given_or_fail, take_file, take_folder
from cellsemi.models.inference.activations import Watched
from cellsemi.models.inference.tiling import filled_up, run_tiled
from cellsemi.models.model_files import StartWeights, read_model_file, read_weights
from cellsemi.models.start_weights import Given, find_given, refuse_other_model
from cellsemi.models.training.device import compute_settings, pick_device, seeded
from cellsemi.models.training.loop import Loop, LossParts
from cellsemi.models.training.result import write_result
from cellsemi.models.training.schedule import thawed
from cellsemi.models.training.start import start_from_teacher
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.store import files


def fit(task: FitTask, progress: Progress) -> FitResult:
    """Fine-tune from the config's weights, or go on from the checkpoint of the same task.

    Crops have the side `model.bsize`, the one that the network takes; `training.crop_px` does not
    count. The network has the learning rate `training.backbone_lr` (null: `training.lr`). A class head,
    which several classes have, has `training.lr`; where the network is frozen (`training.frozen`) it trains alone. With
    one class there is no such head, and nothing is frozen.
    """
    device = pick_device(task.device)
    model = config_of(task.model, CellposeSamConfig)
    given = given_or_fail(task)
    training = task.training if len(task.classes) > 1 else thawed(task.training)
    size = cell_size_of(task)
    source = CellposeCrops.of(task, model.augment, size, channels=3, crop_px=model.bsize)

    def loss_of(net: torch.nn.Module, batch: FlowBatch, step: int) -> LossParts:
        with seeded(derive_seed(task.seed, "layers", step), device):
            raw = net(batch.images)
        return parts.cellpose_loss(raw.float(), batch)

    with compute_settings(task.training.threads):
        net, started_from = _network(given, task, model)
        start_from_teacher(net, task)
        parameters = sum(parameter.numel() for parameter in net.parameters())
        fingerprint = files.sha256_json([task.fingerprint, given.sha256])
        loop = Loop.of(replace(task, training=training), net, device, parts=parts.PARTS, fingerprint=fingerprint)
        crops = CellposeCrops.on_validation(task, size, channels=3, crop_px=model.bsize)
        validation = validation_batches(crops, "diffusion")
        trained = loop.run(FlowBatches(source, "diffusion"), loss_of, progress, validation)
    result = write_result(task, trained, parameters, size, started_from)
    loop.clear()
    return result


def take(task: FitTask) -> FitResult:
    """Take the config's weights as they are: one class without a name, unless they are a trained folder."""
    model = config_of(task.model, CellposeSamConfig)
    given = given_or_fail(task)
    found = take_folder(task, model, given)
    if found is not None:
        return found
    net, unused = _from_file(given, model.bsize, classes=1, seed=task.seed)
    started_from = given.stated(model, len(net.state_dict()), unused=unused)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    tensors = {name: value.contiguous() for name, value in net.state_dict().items()}
    return take_file(task, save(tensors), parameters, 1, model.class_map, started_from)


def load(folder: Path, inference: InferenceConfig, device: str) -> CellposePredictor:
    """The predictor of a folder that `fit` wrote; ModelError when a file is missing or altered."""
    about = read_model_file(folder)
    model = config_of(about.model, CellposeSamConfig)
    return CellposePredictor(
        _trained(load_tensors(read_weights(folder)), len(about.classes), model.bsize, str(folder)),
        about.cell_size.seen(inference),
        pick_device(device),
        bsize=model.bsize,
        flow_threshold=model.flow_threshold,
        one_class_per_image=about.one_class_per_image,
    )


def pretrained(model: CellposeSamConfig, inference: InferenceConfig, device: str) -> CellposePredictor:
    """A predictor with the config's weights as they are, not fine-tuned: one class, the first.

    ModelError when the file is missing, is another than stated, or holds other weights.
    """
    assert model.weights is not None  # the config refuses to be without
    net, _ = _from_file(find_given(model.weights, model.weights_sha256), model.bsize, classes=1, seed=0)
    return CellposePredictor(
        net,
        inference,
        pick_device(device),
        bsize=model.bsize,
        flow_threshold=model.flow_threshold,
        one_class_per_image=False,
    )


class CellposePredictor(FlowPredictor):
    """A network and how it predicts images; see models.base.Predictor.

    `inference.cell_probability` .5 is Cellpose's `cellprob_threshold` 0.
    """

    def __init__(
        self,
        net: CellposeNet,
        inference: InferenceConfig,
        device: torch.device,
        *,
        bsize: int,
        flow_threshold: float,
        one_class_per_image: bool,
    ) -> None:
        super().__init__(inference, device)
        self._net = net.to(device).eval()
        self._bsize = bsize
        self._flow_threshold, self._one_class_per_image = flow_threshold, one_class_per_image

    def _pixels(self, image: Image) -> NDArray[np.float32]:
        return parts.cellpose_pixels(image)

    def _cells(
        self, mean: NDArray[np.float32], spread: NDArray[np.float32], inference: InferenceConfig
    ) -> LabelledCells:
        cells = cells_of(mean, spread, inference, "diffusion", self._one_class_per_image, self._device)
        return cells.select(cells.flow_error <= self._flow_threshold) if self._flow_threshold else cells

    def _left_out(self, mean: NDArray[np.float32], spread: NDArray[np.float32]) -> Reasons:
        every = cells_of(mean, spread, self._inference, "diffusion", self._one_class_per_image, self._device)
        limit = self._flow_threshold
        wrong = every.flow_error > limit if limit else np.zeros(len(every.score), bool)
        why = [f"flow error {error:.3g}, above model.flow_threshold {limit:g}" for error in every.flow_error[wrong]]
        return [*super()._left_out(mean, spread), (every.select(wrong), why)]

    def _one_window(self, inference: InferenceConfig) -> InferenceConfig:
        return inference.model_copy(update={"tile_px": self._bsize, "stride_px": None, "grid": None})

    def _parts(self) -> list[Watched]:
        return watched_parts(self._net.net)

    def _seen_by_network(self, window: NDArray[np.float32]) -> tuple[int, int]:
        self._forward(filled_up(window, self._bsize)[None])
        return self._bsize, self._bsize

    def _tiled(self, images: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Outputs (C, H, W) of each image (H, W, 3) in tiles of `bsize`, the only size that the network takes.

        They share `inference.overlap`. With a stated stride or grid, the image is first cut into those
        windows and each of them into tiles, as Cellpose does with the images that it is given.
        """
        tiles = self._inference.model_copy(update={"tile_px": self._bsize, "stride_px": None, "grid": None})
        if self._inference.stride_px is None and self._inference.grid is None:
            return run_tiled(images, self._forward, tiles, self._bsize, self._shared)

        def windows(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.stack(run_tiled(list(batch), self._forward, tiles, self._bsize, self._shared))

        return run_tiled(images, windows, self._inference, 1, self._shared)

    def _forward(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        images = torch.from_numpy(np.ascontiguousarray(np.moveaxis(tiles, -1, 1))).to(self._device)
        half = self._device.type == "cuda"
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=half):
            raw = self._net(images)
        activated: NDArray[np.float32] = activate(raw.float()).cpu().numpy()
        return activated


def _network(given: Given, task: FitTask, model: CellposeSamConfig) -> tuple[CellposeNet, StartWeights]:
    """The network with given weights: those of Cellpose, below a new class head, or all of an earlier model."""
    if given.about is not None:
        refuse_other_model(given, model.kind, task.classes)
        whole = _trained(given.tensors(), len(task.classes), model.bsize, str(given.place))
        return whole, given.stated(model, len(whole.state_dict()))
    net, unused = _from_file(given, model.bsize, len(task.classes), task.seed)
    head = [name for name in net.state_dict() if not name.startswith(parts.NET)]
    return net, given.stated(model, len(net.state_dict()) - len(head), head, unused)


def _from_file(given: Given, bsize: int, classes: int, seed: int) -> tuple[CellposeNet, list[str]]:
    net, unused = parts.load_net(given.tensors(), bsize, str(given.file))
    return parts.with_classes(net, classes, seed), unused


def _trained(state: dict[str, Tensor], classes: int, bsize: int, origin: str) -> CellposeNet:
    """The network with all the tensors of a trained folder, class head included."""
    net, _ = parts.load_net(parts.cellpose_state(state), bsize, origin)
    whole = CellposeNet(net, classes)
    whole.load_state_dict(state)
    return whole
