"""The start of training on many cells, which `kernels.py` runs in processes of their own."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kernels_data import write_many
from pycocotools.coco import COCO

from cellsemi.configs.phases import AugmentConfig
from cellsemi.models.crops.source import CropSource
from cellsemi.rounds.store.shards import shard_paths

BATCH = 8
GOAL, MEMORY_GOAL = 50.0, 10.0


def _write(folder: Path) -> Callable[[], Any]:
    few = folder / "few"
    few.mkdir()
    write_many(few, 1)
    return lambda: write_many(folder, int((folder / "cells").read_text()))


def _plain(folder: Path) -> Callable[[], Any]:
    return _batch(folder, AugmentConfig(), {})


def _balanced(folder: Path) -> Callable[[], Any]:
    settings = {"balance": "class-group", "pseudo_draw": "need", "classes": ("a", "b", "c")}
    return _batch(folder, AugmentConfig(size_aware=True), settings)


def _batch(folder: Path, augment: AugmentConfig, settings: dict[str, Any]) -> Callable[[], Any]:
    def first(place: Path) -> Any:
        common: dict[str, Any] = {"crop_px": 256, "batch": BATCH, "human_fraction": 0.5, "ignore_dilation_px": 2}
        return CropSource(shard_paths(place), **common, augment=augment, seed=0, **settings)(0)

    first(folder / "few")
    return lambda: first(folder)


def _pycocotools(folder: Path) -> Callable[[], Any]:
    def first(place: Path) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            data = COCO(place / "annotations.json")
        chosen = list(data.imgs)[:BATCH]
        return [[data.annToMask(each) for each in data.loadAnns(data.getAnnIds(image))] for image in chosen]

    first(folder / "few")
    return lambda: first(folder)


STEPS: dict[str, Callable[[Path], Callable[[], Any]]] = {
    "write": _write,
    "plain": _plain,
    "balanced": _balanced,
    "pycocotools": _pycocotools,
}


def start_of_training(runs: Sequence[dict[str, float]]) -> dict[str, tuple[str, float, float, float]]:
    """The rows of the runs of STEPS but the first: peer, ours, theirs (seconds, or MB / 1000) and goal."""
    plain, balanced, theirs = runs or [{"seconds": 0.0, "memory": 0.0}] * 3
    peer = "pycocotools, COCO() and the masks of 8 images"
    return {
        "first batch": (peer, plain["seconds"], theirs["seconds"], GOAL),
        "first batch, balanced and by need": (peer, balanced["seconds"], theirs["seconds"], GOAL),
        "first batch, memory in MB": (peer, plain["memory"] / 1000, theirs["memory"] / 1000, MEMORY_GOAL),
        "first batch, balanced, memory in MB": (peer, balanced["memory"] / 1000, theirs["memory"] / 1000, MEMORY_GOAL),
    }
