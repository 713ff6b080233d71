"""The model families as gpu.py measures them: small, with random weights, nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cellsemi.configs.models import (
    AugmentConfig,
    CellposeSamConfig,
    Detectron2Config,
    FlowUnetConfig,
    MaskRcnnConfig,
    ModelConfig,
)
from cellsemi.configs.training import TrainingConfig

AUGMENT = AugmentConfig(scale_min=0.9, scale_max=1.1)
TINY = {"rpn_proposals": 200, "roi_batch": 64}  # of a detector, to try the script on a CPU


@dataclass(frozen=True, slots=True)
class Measured:
    """A family as it is measured: its config, given a folder for weights and whether all is tiny, and its batches."""

    config: Callable[[Path, bool], ModelConfig]
    training: Mapping[str, object]
    tiny: Mapping[str, object] = field(default_factory=dict)
    flow: bool = False  # its loss draws no boxes at random: the same on every device
    tolerance: float = 0.02  # of the first loss, CPU against device; sampled boxes differ more

    def training_config(self, tiny: bool, steps: int, precision: str) -> TrainingConfig:
        """How it is trained."""
        own = {**self.training, **(self.tiny if tiny else {})}
        return TrainingConfig.model_validate({"schedule": "constant", **own, "steps": steps, "precision": precision})


def _mask_rcnn(backbone: str, **more: object) -> Callable[[Path, bool], ModelConfig]:
    def config(_: Path, tiny: bool) -> ModelConfig:
        own = {"name": "m", "backbone": backbone, "augment": AUGMENT, **(TINY if tiny else {}), **more}
        return MaskRcnnConfig.model_validate(own)

    return config


def _detectron2(cascade: bool) -> Callable[[Path, bool], ModelConfig]:
    def config(_: Path, tiny: bool) -> ModelConfig:
        own = {"name": "m", "cascade": cascade, "augment": AUGMENT, **(TINY if tiny else {})}
        return Detectron2Config.model_validate(own)

    return config


def _cellpose(folder: Path, tiny: bool) -> ModelConfig:
    """Cellpose-SAM's network with random weights."""
    import torch

    from cellsemi.models.cellpose_sam.parts import build_net

    side = 64 if tiny else 256
    path = folder / f"random-{side}.pth"
    if not path.is_file():
        torch.manual_seed(0)
        torch.save(build_net(side).state_dict(), path)
    return CellposeSamConfig(name="m", weights=str(path), bsize=side, augment=AUGMENT)


DETECTOR = {"batch": 4, "crop_px": 256, "lr": 1e-3}
TINY_DETECTOR = {"batch": 2, "crop_px": 64}
FAMILIES: Mapping[str, Measured] = {
    "flow-unet": Measured(
        lambda _, __: FlowUnetConfig(name="m", augment=AUGMENT),
        {"batch": 12, "crop_px": 128, "lr": 4e-3},
        {"batch": 2, "crop_px": 64},
        flow=True,
    ),
    "r18": Measured(_mask_rcnn("resnet18"), DETECTOR, TINY_DETECTOR, tolerance=0.25),
    "r18-cbam": Measured(
        _mask_rcnn("resnet18-cbam", anchor_px=(32, 64, 128)),
        {**DETECTOR, "lr": 1e-4},
        TINY_DETECTOR,
        tolerance=0.25,
    ),
    "r50": Measured(_mask_rcnn("resnet50"), DETECTOR, TINY_DETECTOR, tolerance=0.25),
    "r50-v2-heads": Measured(
        _mask_rcnn("resnet50-v2", centre_head=True, boundary_head=True),
        {**DETECTOR, "lr": 1e-4},
        TINY_DETECTOR,
        tolerance=0.25,
    ),
    "detectron2": Measured(_detectron2(False), DETECTOR, TINY_DETECTOR, tolerance=0.25),
    "detectron2-cascade": Measured(_detectron2(True), DETECTOR, TINY_DETECTOR, tolerance=0.25),
    "cellpose-sam": Measured(_cellpose, {"batch": 2, "lr": 1e-4, "weight_decay": 0.1}, {"batch": 1}, flow=True),
}
