"""Cellpose's network small enough for tests, a file of its weights, and tasks that start from it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from helpers import pictures
from helpers.pictures import FOUR
from torch import Tensor, nn

from cellsemi.configs.models import CellposeSamConfig
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.base import FitTask
from cellsemi.rounds.store.schemas import ImageRecord

SIDE = 64  # of the tiny network's tiles
TRAINING = TrainingConfig(steps=40, batch=2, lr=2e-2, schedule="constant", ema=0, precision="float32")
discs, record = partial(pictures.discs, layout=FOUR), partial(pictures.record, layout=FOUR)


class Tiny(nn.Module):
    """The interface of cellpose's network, of a size for tests: patches of 8 pixels, a hidden layer, a readout."""

    ps = 8

    def __init__(self, bsize: int) -> None:
        super().__init__()
        self.bsize = bsize
        self.diam_mean = nn.Parameter(torch.tensor([30.0]), requires_grad=False)
        self.pos_embed = nn.Parameter(torch.zeros(1, bsize // 8, bsize // 8, 1))
        self.stem = nn.Conv2d(3, 48, 8, stride=8)
        self.out = nn.Conv2d(48, 3 * 64, 1)
        self.W2 = nn.Parameter(torch.eye(192).reshape(192, 3, 8, 8), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert x.shape[1:] == (3, self.bsize, self.bsize)
        features = torch.relu(self.stem(x)) + self.pos_embed.permute(0, 3, 1, 2)
        if self.training:
            features = nn.functional.dropout(features, 0.1)
        return nn.functional.conv_transpose2d(self.out(features), self.W2, stride=8), torch.zeros(len(x), 256)


def tiny_file(folder: Path) -> Path:
    torch.manual_seed(5)
    path = folder / "tiny.pth"
    torch.save(Tiny(SIDE).state_dict(), path)
    return path


def task_in(folder: Path, records: list[ImageRecord], **changes: Any) -> FitTask:
    model = CellposeSamConfig(name="m", weights=str(tiny_file(folder)), bsize=SIDE)
    return pictures.task_in(
        folder, records, **{"model": model, "training": TRAINING, "classes": ("a",), "ignore_dilation_px": 0, **changes}
    )
