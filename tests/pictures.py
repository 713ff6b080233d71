"""Pictures of discs to learn from, as rows of shards, and the tasks that train on them."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cellsemi.configs.models import ModelConfig
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.base import FitTask
from cellsemi.rounds import masks, shards
from cellsemi.rounds.tables import ImageRecord


@dataclass(frozen=True, slots=True)
class Layout:
    """Two rows of discs: where the first is, the distances to the next, the range of the squared radius, in pixels."""

    columns: int
    first: int
    down: int
    right: int
    squared_radius: tuple[int, int]


SIX = Layout(columns=3, first=14, down=30, right=22, squared_radius=(30, 70))
FOUR = Layout(columns=2, first=20, down=32, right=32, squared_radius=(80, 140))


def discs(seed: int, side: int = 72, layout: Layout = SIX) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Bright discs on dark ground, a little out of line, and their label map; even numbers are class 1 and dimmer."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.int32)
    yy, xx = np.mgrid[:side, :side]
    for i in range(2 * layout.columns):
        row, column = divmod(i, layout.columns)
        y = layout.first + layout.down * row + rng.integers(-3, 4)
        x = layout.first + layout.right * column + rng.integers(-3, 4)
        labels[(yy - y) ** 2 + (xx - x) ** 2 < rng.integers(*layout.squared_radius)] = i + 1
    light = np.where(labels == 0, 30, np.where(labels % 2, 200, 120)) + rng.normal(0, 5, labels.shape)
    return light.clip(0, 255).astype(np.uint8), labels


def png(pixels: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def record(seed: int, split: str = "labelled", layout: Layout = SIX, **columns: Any) -> ImageRecord:
    """The discs of a seed as a row of a shard, their cells with these columns."""
    pixels, labels = discs(seed, layout=layout)
    numbers = np.unique(labels)[1:]
    columns = {"state": "human", "class_id": (numbers % 2 == 0).astype(int), **columns}
    cells = masks.from_label_map(labels, **columns)
    return ImageRecord(f"im{seed}", *labels.shape, split, png(pixels), instances=cells)


def task_in(
    folder: Path,
    records: list[ImageRecord],
    steps: int | None = None,
    *,
    model: ModelConfig,
    training: TrainingConfig,
    **changes: Any,
) -> FitTask:
    """A task that trains on these rows into `folder / "out"`, without `steps` as many as `training` says."""
    path = folder / "data" / "part-00000.parquet"
    shards.write_shard(path, records, "x")
    task = FitTask(
        model=model,
        training=training,
        classes=("a", "b"),
        one_class_per_image=False,
        ignore_dilation_px=2,
        shards=(str(path),),
        out_dir=str(folder / "out"),
        seed=0,
        steps=steps or training.steps,
        device="cpu",
    )
    return replace(task, **changes)


def quiet(step: int, steps: int) -> None:
    """Progress that nobody watches."""
