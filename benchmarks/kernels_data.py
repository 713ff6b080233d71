"""What `kernels.py` measures on: a dense image, its predictions and teachers, shards and annotations of many cells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.schemas import ImageRecord

HEIGHT, WIDTH = 520, 704  # LIVECell's
STEP = 27  # pixels between cells: 494 of them in an image
CELLS = 320  # of an image of the many cells

Labels = NDArray[np.int32]


def dense_image(rng: np.random.Generator) -> Labels:
    """A label map of wavy ellipses that nearly touch, int32 (HEIGHT, WIDTH), values 1..N."""
    labels = np.zeros((HEIGHT, WIDTH), np.int32)
    places = [(y, x) for y in range(STEP // 2, HEIGHT, STEP) for x in range(STEP // 2, WIDTH, STEP)]
    for value, (y, x) in enumerate(places, start=1):
        cell = _cell(rng)
        half = len(cell) // 2
        top, left = y + int(rng.integers(-2, 3)) - half, x + int(rng.integers(-2, 3)) - half
        rows = slice(max(top, 0), min(top + len(cell), HEIGHT))
        columns = slice(max(left, 0), min(left + len(cell), WIDTH))
        inside = cell[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        part = labels[rows, columns]
        part[inside & (part == 0)] = value
    return dense(labels)


def _cell(rng: np.random.Generator) -> NDArray[np.bool_]:
    radius = 11.5 * rng.uniform(0.8, 1.2)
    a, b = rng.uniform(0.7, 1.0, 2) * radius
    turn, waves, phase = rng.uniform(0, 6), rng.integers(2, 6), rng.uniform(0, 6)
    y, x = np.mgrid[-17:18, -17:18]
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    edge = 1 + 0.15 * np.sin(waves * np.arctan2(v, u) + phase)
    return np.asarray((u / a) ** 2 + (v / b) ** 2 <= edge**2)


def dense(labels: NDArray[np.int32]) -> Labels:
    """The label map with values 1..N without gaps."""
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def predicted(labels: Labels, rng: np.random.Generator) -> Labels:
    """A label map of predictions: cells moved by up to three pixels, one in twenty missing."""
    made = np.zeros_like(labels)
    for crop, x, y in _moved(labels, rng, keep=0.95):
        part = made[y : y + crop.shape[0], x : x + crop.shape[1]]
        part[crop & (part == 0)] = made.max() + 1
    return dense(made)


def teacher(labels: Labels, rng: np.random.Generator) -> Instances:
    """Predictions whose masks overlap, with scores."""
    crops = list(_moved(labels, rng, keep=1.0))
    return masks.from_crops(HEIGHT, WIDTH, crops, score=rng.uniform(0.3, 1, len(crops)))


def _moved(labels: Labels, rng: np.random.Generator, keep: float) -> Iterator[tuple[NDArray[np.bool_], int, int]]:
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None and rng.random() < keep:
            crop = labels[box] == value
            y, x = (int(side.start + rng.integers(-3, 4)) for side in box)
            yield crop, min(max(x, 0), WIDTH - crop.shape[1]), min(max(y, 0), HEIGHT - crop.shape[0])


def write_many(folder: Path, count: int) -> None:
    """Shards and a COCO file of the same `count` cells, CELLS an image; every tenth image is human-labelled."""
    rng = np.random.default_rng(1)
    base = masks.from_label_map(dense_image(rng))
    chosen = [base.select(np.sort(rng.choice(len(base), CELLS, replace=False))) for _ in range(32)]
    kinds = [cells.with_(class_id=rng.integers(0, 3, CELLS)) for cells in chosen]
    image = to_png(np.full((HEIGHT, WIDTH), 128, np.uint8))
    images = max(1, count // CELLS)
    with (folder / "annotations.json").open("w") as file:
        listed = [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(images)]
        file.write(f'{{"images": {json.dumps(listed)}, "categories": [{{"id": 1, "name": "cell"}}],\n"annotations": [')
        lines = [_annotations(cells) for cells in kinds]
        for i in range(images):
            for k, line in enumerate(lines[i % len(kinds)]):
                comma = "," if i or k else ""
                file.write(f'{comma}\n{{"id": {i * CELLS + k}, "image_id": {i}, {line}}}')
        file.write("]}\n")
    records = (
        ImageRecord(
            f"{i}", HEIGHT, WIDTH, "unlabelled" if i % 10 else "labelled", image, group=f"g{i % 7}", low=0, high=255,
            dtype="uint8", instances=kinds[i % len(kinds)].with_(state="accepted" if i % 10 else "human"),
        )
        for i in sorted(range(images), key=lambda i: i % 10 > 0)
    )  # fmt: skip
    shards.write_folder(folder, records, 256, "hash")


def _annotations(cells: Instances) -> list[str]:
    """The JSON of each cell, without its ids."""
    made = []
    for rle, (x0, y0, x1, y1), area in zip(cells.rle, cells.bbox.tolist(), cells.area.tolist(), strict=True):
        segmentation = {"size": [HEIGHT, WIDTH], "counts": rle.decode()}
        box = [x0, y0, x1 - x0, y1 - y0]
        content = {"category_id": 1, "segmentation": segmentation, "bbox": box, "area": area, "iscrowd": 0}
        made.append(json.dumps(content)[1:-1])
    return made
