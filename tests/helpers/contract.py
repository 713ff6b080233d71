"""What the contract test needs of each family: settings small enough for a test, and pictures to learn from."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.pictures import discs, grid, row, task_in
from numpy.typing import NDArray

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import (
    AugmentConfig,
    CellposeSamConfig,
    Detectron2Config,
    FlowUnetConfig,
    MaskRcnnConfig,
    ModelConfig,
)
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.base import FitTask
from cellsemi.models.model_files import read_weights
from cellsemi.models.registry import family
from cellsemi.models.training.device import compute_settings
from cellsemi.rounds.store.schemas import ImageRecord

SIDE = 64  # of pictures and crops, and of the tiles that tiny_cellpose.Tiny takes
PLAIN = AugmentConfig(scale_min=1, scale_max=1, rotate=False, flip=False, brightness=0, blur=0, noise=0)
TRAINING = TrainingConfig(batch=2, crop_px=SIDE, schedule="constant", ema=0, weight_decay=0, precision="float32")
NOT_LEARNT = ("running_mean", "running_var", "num_batches_tracked")  # statistics of batch norm


@dataclass(frozen=True, slots=True)
class ContractCase:
    """A family with settings that make it small. `prepare` puts a small network in the place of a large one."""

    name: str
    kind: str
    model: Callable[[Path], ModelConfig]
    lr: float
    steps: int  # after which the loss of one picture is lower
    prepare: Callable[[pytest.MonkeyPatch], None] = lambda patch: None


def small_rcnn(backbone: Any) -> Callable[[Path], ModelConfig]:
    """Mask R-CNN with few channels and small anchors."""
    return lambda folder: MaskRcnnConfig(
        name="m",
        backbone=backbone,
        anchor_px=(12, 16, 20, 24, 32),
        anchor_ratios=(1.0,),
        box_hidden=32,
        mask_hidden=16,
        rpn_proposals=100,
        rpn_batch=64,
        roi_batch=16,
        score_threshold=0.01,
        augment=PLAIN,
    )


def small_cellpose(folder: Path) -> ModelConfig:
    """Cellpose-SAM's settings for a file with the weights of the tiny network of its own tests."""
    from helpers.tiny_cellpose import tiny_file

    return CellposeSamConfig(name="m", weights=str(tiny_file(folder)), bsize=SIDE, flow_threshold=0, augment=PLAIN)


def tiny_cellpose(patch: pytest.MonkeyPatch) -> None:
    """The tiny network instead of the one of 305 million parameters; nothing is downloaded."""
    from helpers.tiny_cellpose import Tiny

    from cellsemi.models.cellpose_sam import parts

    def fetched(*_: Any, **__: Any) -> None:
        raise AssertionError("something was about to be downloaded")

    patch.setattr(parts, "build_net", Tiny)
    patch.setattr(urllib.request, "urlopen", fetched)


def small_detectron2(folder: Path) -> ModelConfig:
    """Detectron2's settings; the sizes of its network are those of its own tests."""
    return Detectron2Config(name="m", rpn_proposals=100, roi_batch=16, score_threshold=0.01, augment=PLAIN)


def tiny_detectron2(patch: pytest.MonkeyPatch) -> None:
    """ResNet-18 with few channels."""
    from helpers.detectron2_small import make_small

    make_small(patch)


ENTRIES = (
    ContractCase("flow-unet", "flow-unet", lambda folder: FlowUnetConfig(name="m", width=4, augment=PLAIN), 5e-3, 10),
    ContractCase("maskrcnn-resnet18", "torchvision-maskrcnn", small_rcnn("resnet18"), 3e-4, 10),
    ContractCase("maskrcnn-resnet18-cbam", "torchvision-maskrcnn", small_rcnn("resnet18-cbam"), 3e-4, 10),
    ContractCase("cellpose-sam", "cellpose-sam", small_cellpose, 2e-2, 40, tiny_cellpose),
    ContractCase("detectron2", "detectron2-maskrcnn", small_detectron2, 3e-4, 10, tiny_detectron2),
)


# One entry per family, for what another backbone cannot change.
ONE_EACH = tuple({entry.kind: entry for entry in reversed(ENTRIES)}.values())


@contextlib.contextmanager
def prepared(entry: ContractCase) -> Iterator[ContractCase]:
    """The entry, its network made small; skipped when its framework is not installed."""
    try:
        family(entry.kind)
    except ModelError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch, compute_settings(1):
        entry.prepare(patch)
        patch.setattr("os.fsync", lambda handle: None)  # much of the time of these small fits
        yield entry


def picture(
    seed: int, side: int = SIDE, step: int = 20, radius: int = 7
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Discs on a grid and their label map."""
    return discs(seed, side, grid(side, step, radius))


def record(seed: int, split: str = "labelled", labels: NDArray[np.int32] | None = None, **columns: Any) -> ImageRecord:
    """A picture as a row of a shard; `labels` instead of its own."""
    pixels, own = picture(seed)
    return row(f"im{seed}", pixels, own if labels is None else labels, split, **columns)


def task_of(entry: ContractCase, folder: Path, records: list[ImageRecord], steps: int, **changes: Any) -> FitTask:
    """A task for this family in `folder`; `training` among the changes adds to TRAINING."""
    folder.mkdir(parents=True, exist_ok=True)
    training = TRAINING.model_copy(update={"lr": entry.lr, **changes.pop("training", {})})
    given = {"classes": ("bright", "dim"), "ignore_dilation_px": 0, **changes}
    return task_in(folder, records, steps, model=entry.model(folder), training=training, **given)


def losses(task: FitTask) -> list[float]:
    """The loss of each step, as the fit recorded it."""
    found: list[float] = pq.read_table(Path(task.out_dir) / "loss.parquet")["loss"].to_pylist()
    return found


def learnt(task: FitTask) -> dict[str, NDArray[Any]]:
    """The trained parameters by name, without what batch norm counts along the way."""
    from safetensors.numpy import load

    tensors: dict[str, NDArray[Any]] = load(read_weights(Path(task.out_dir)))
    return {name: value for name, value in tensors.items() if not name.endswith(NOT_LEARNT)}
