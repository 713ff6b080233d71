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
from cellsemi.rounds.cells import masks
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.schemas import ImageRecord


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows of discs: where the first is, the distances to the next, the range of the squared radius, in pixels.

    Each disc is up to `jitter` pixels out of line, up or down and left or right.
    """

    columns: int
    first: int
    down: int
    right: int
    squared_radius: tuple[int, int]
    rows: int = 2
    jitter: int = 3


SIX = Layout(columns=3, first=14, down=30, right=22, squared_radius=(30, 70))
FOUR = Layout(columns=2, first=20, down=32, right=32, squared_radius=(80, 140))


def grid(side: int, step: int, radius: int) -> Layout:
    """As many discs of one radius as a square picture holds, `step` pixels from each other."""
    count = len(range(step // 2, side - radius, step))
    return Layout(count, step // 2, step, step, (radius**2, radius**2 + 1), rows=count, jitter=1)


def discs(seed: int, side: int = 72, layout: Layout = SIX) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Bright discs on dark ground, a little out of line, and their label map; even numbers are class 1 and dimmer."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.int32)
    yy, xx = np.mgrid[:side, :side]
    for i in range(layout.rows * layout.columns):
        down, right = divmod(i, layout.columns)
        y = layout.first + layout.down * down + rng.integers(-layout.jitter, layout.jitter + 1)
        x = layout.first + layout.right * right + rng.integers(-layout.jitter, layout.jitter + 1)
        labels[(yy - y) ** 2 + (xx - x) ** 2 < rng.integers(*layout.squared_radius)] = i + 1
    light = np.where(labels == 0, 30, np.where(labels % 2, 200, 120)) + rng.normal(0, 5, labels.shape)
    return light.clip(0, 255).astype(np.uint8), labels


def png(pixels: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def row(name: str, pixels: NDArray[np.uint8], labels: NDArray[np.int32], split: str, **columns: Any) -> ImageRecord:
    """A row of a shard with these pixels and cells, human-labelled ones of two classes where `columns` do not say."""
    numbers = np.setdiff1d(labels, [0])
    columns = {"state": "human", "class_id": (numbers % 2 == 0).astype(int), **columns}
    return ImageRecord(name, *labels.shape, split, png(pixels), instances=masks.from_label_map(labels, **columns))


def record(seed: int, split: str = "labelled", layout: Layout = SIX, **columns: Any) -> ImageRecord:
    """The discs of a seed as a row of a shard, their cells with these columns."""
    return row(f"im{seed}", *discs(seed, layout=layout), split, **columns)


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
        human_fraction=training.human_share(1.0),
    )
    return replace(task, **changes)


def quiet(step: int, steps: int) -> None:
    """Progress that nobody watches."""
