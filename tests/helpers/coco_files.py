"""Builds COCO files and their images for the tests of the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from cellsemi.configs.data import DataConfig
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.rle import encode
from cellsemi.rounds.formats.base import Loaded, parts_of
from cellsemi.rounds.formats.coco.reader import Coco
from cellsemi.rounds.store.image_codec import to_png

H, W = 20, 30
SQUARE = [2, 3, 9, 3, 9, 8, 2, 8]
CATEGORIES = [{"id": 7, "name": "neuron"}, {"id": 3, "name": "astro"}, {"id": 1, "name": "never used"}]
Document = dict[str, Any]


def png(value: int, height: int = H, width: int = W) -> bytes:
    return to_png(np.full((height, width), value, np.uint8))


def cell(number: int, image: Any, segmentation: Any, category: Any = 7, **more: Any) -> Document:
    return {"id": number, "image_id": image, "category_id": category, "segmentation": segmentation, **more}


def rle_list(mask: NDArray[Any]) -> Document:
    runs, last = [], 0
    for pixel in mask.T.reshape(-1):
        if not runs or pixel != last:
            runs += [0] * (not runs and bool(pixel)) + [0]
        runs[-1] += 1
        last = pixel
    return {"size": list(mask.shape), "counts": runs}


def rle_string(mask: NDArray[Any]) -> Document:
    return {"size": list(mask.shape), "counts": encode(mask).decode()}


def blob(seed: int, height: int = H, width: int = W) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((height, width)) > 0.7


def build(root: Path, document: Document | str, files: tuple[str, ...] = ("a.png",)) -> Path:
    """A COCO file and images of distinct grey values."""
    for value, name in enumerate(files):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(value))
    (root / "images").mkdir(parents=True, exist_ok=True)
    text = document if isinstance(document, str) else json.dumps(document, ensure_ascii=False)
    (root / "a.json").write_text(text, encoding="utf-8")
    return root


def document(annotations: list[Document], images: list[Document] | None = None) -> Document:
    listed = images if images is not None else [{"id": 1, "file_name": "a.png", "height": H, "width": W}]
    return {"images": listed, "annotations": annotations, "categories": CATEGORIES}


def config(root: Path, **options: Any) -> DataConfig:
    return DataConfig(source="coco", root=str(root), annotations="a.json", **options)


def opened(root: Path, **options: Any) -> Coco:
    return Coco(parts_of(config(root, **options))[0])


def loaded(root: Path, **options: Any) -> dict[str, Loaded]:
    return {item.image_id: item.load() for item in opened(root, **options).items()}


def cells_of(root: Path) -> Instances:
    (found,) = loaded(root).values()
    assert found.record.instances is not None
    return found.record.instances


def check_tight(cells: Instances) -> None:
    """Masks are canonical and not empty; boxes and areas are those of the bitmaps."""
    for rle, box, area in zip(cells.rle, cells.bbox.tolist(), cells.area.tolist(), strict=True):
        mask = coco.decode({"size": [cells.height, cells.width], "counts": rle}).astype(bool)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert encode(mask) == rle and int(mask.sum()) == area > 0
        assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def golden(root: Path) -> Document:
    """Two images of classes 7 and 3: rings, both kinds of RLE, a crowd, an image without cells."""
    hole = [[1.5, 1.5, 12.25, 2, 11, 9.75, 2, 8], [15, 3, 25, 3, 25, 15], [14, 2, 18, 2, 18, 6, 14, 6]]
    annotations = [
        cell(11, 5, [SQUARE], 3, area=1, bbox=[0, 0, 1, 1]),
        cell(12, 9, hole, 7, iscrowd=0, attributes={"occluded": False}),
        cell(13, 5, rle_list(blob(1)), 7, iscrowd=1),
        cell(14, 5, rle_string(blob(2)), 3),
        cell(15, 9, [[-5, -4, 40, 10.5, 12, 33, 3, 18]], 7),
        cell(16, 9, [[20, 1, 29, 1, 29, 19]], 3, ignore=1),
    ]
    images = [
        {"id": 9, "file_name": "astro[a]_細胞.png", "height": H, "width": W, "license": 1},
        {"id": 5, "file_name": "b.png", "height": H, "width": W},
        {"id": 6, "file_name": "empty.png", "height": float(H), "width": W},
    ]
    found = {"info": {"a": [1, {"b": "]}"}]}, **document(annotations, images)}
    build(root, found, ("SHSY5Y/astro[a]_細胞.png", "A172/b.png", "A172/empty.png"))
    return found
