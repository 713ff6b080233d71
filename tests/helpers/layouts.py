"""Small data sets in the layouts that people have, with generated cells; written without the package's writers."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from cellsemi.configs.data import GeneratedConfig
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.datasets import synthetic
from cellsemi.rounds.store.image_codec import decode_image

CLASSES = ("shsy5y", "astro", "cort")
SIZES = GeneratedConfig(labelled=12, unlabelled=6, val=6, test=6, height_px=96, width_px=128)


@dataclass(frozen=True, slots=True)
class Picture:
    """One generated image: its cells overlap here and there, as annotations do."""

    name: str
    split: str
    cell_type: str
    well: str
    pixels: NDArray[np.uint8]
    cells: list[NDArray[np.bool_]]


def pictures(*splits: str) -> Iterator[Picture]:
    """The pictures of some splits, in order."""
    for split in splits:
        yield from _drawn(SIZES, split)


@functools.cache
def _drawn(sizes: GeneratedConfig, split: str) -> tuple[Picture, ...]:
    """Drawn once in a process: half a second a split."""
    found = []
    for index, image_id in enumerate(synthetic.image_ids(sizes, split)):
        record = synthetic.make(sizes, CLASSES, 0, split, index)
        truth = synthetic.hidden_truth(sizes, CLASSES, 0, image_id)
        assert record.image is not None and record.cell_type is not None and record.group is not None
        cells = [decode(rle, record.height, record.width) for rle in truth.rle]
        cells[-1] |= np.roll(cells[-1], 2, axis=1)
        pixels = decode_image(record.image, image_id)
        found.append(Picture(image_id, split, record.cell_type, record.group, pixels, cells))
    return tuple(found)


def row_major(mask: NDArray[np.bool_]) -> str:
    """Kaggle run lengths, 1-based, row after row."""
    flat = np.concatenate([[0], mask.ravel().astype(np.int8), [0]])
    starts, ends = np.flatnonzero(np.diff(flat) == 1), np.flatnonzero(np.diff(flat) == -1)
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))


def label_map(picture: Picture) -> NDArray[np.uint16]:
    """0 background, 1..N cells, later cells on top."""
    labels = np.zeros(picture.pixels.shape[:2], np.uint16)
    for number, cell in enumerate(picture.cells, start=1):
        labels[cell] = number
    return labels


def save(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels)
    else:
        Image.fromarray(pixels).save(path)


def sartorius(root: Path) -> None:
    """train.csv, train/ and train_semi_supervised/ with the cell type and brackets in the names."""
    columns = ["id", "annotation", "width", "height", "cell_type", "plate_time", "sample_date", "sample_id"]
    rows: list[list[Any]] = []
    for picture in pictures("labelled", "val", "test"):
        save(root / "train" / f"{picture.name}.png", picture.pixels)
        facts = [SIZES.width_px, SIZES.height_px, picture.cell_type, "11h30m00s", "2019-06-16", picture.well]
        rows += [[picture.name, row_major(cell), *facts] for cell in picture.cells]
    for number, picture in enumerate(pictures("unlabelled")):
        name = f"{picture.cell_type}[diff]_E10-4_Vid_{number}_0.png"
        save(root / "train_semi_supervised" / name, picture.pixels)
    with (root / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def livecell(root: Path) -> None:
    """Three COCO files; images in folders by cell type, named in the files without them."""
    folders = {"labelled": "livecell_train_val_images", "val": "livecell_train_val_images"}
    names = {"labelled": "train", "val": "val", "test": "test"}
    for split, name in names.items():
        listed: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
        for number, picture in enumerate(pictures(split)):
            file_name = f"{picture.cell_type}_Phase_{picture.name}.tif"
            folder = root / "images" / folders.get(split, "livecell_test_images")
            save(folder / picture.cell_type / file_name, picture.pixels)
            listed["images"].append(
                {"id": number, "file_name": file_name, "height": SIZES.height_px, "width": SIZES.width_px}
            )
            for cell in picture.cells:
                rle = coco.encode(np.asfortranarray(cell.astype(np.uint8)))
                annotation = {"id": len(listed["annotations"]), "image_id": number, "category_id": 1, "iscrowd": 0}
                segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
                listed["annotations"].append({**annotation, "segmentation": segmentation})
        path = root / "annotations" / "LIVECell" / f"livecell_coco_{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(listed))


def class_tifs(root: Path) -> None:
    """A folder an image: image.tif in colour, class1.tif .. class4.tif, ids from 1 in each, some of them empty."""
    for picture in pictures("labelled", "val", "test"):
        folder = root / "train" / picture.name
        save(folder / "image.tif", np.repeat(picture.pixels[..., None], 3, axis=2))
        for number in range(4):
            part = picture.cells[number::4]
            labels = np.zeros(picture.pixels.shape, np.uint16)
            for value, cell in enumerate(part, start=1):
                labels[cell] = value
            save(folder / f"class{number + 1}.tif", labels)


def manifest(root: Path) -> None:
    """images/, masks/ and a manifest with the modality, as the DSB2018 folder of the benchmarks."""
    lines = ["id,split,modality"]
    for picture in pictures("labelled", "unlabelled", "val", "test"):
        save(root / "images" / f"{picture.name}.png", picture.pixels)
        save(root / "masks" / f"{picture.name}.png", label_map(picture))
        lines.append(f"{picture.name},{picture.split},fluorescence")
    (root / "manifest.csv").write_text("\n".join(lines))


def paired(root: Path) -> None:
    """X.png beside X_masks.png, and a folder of images without masks."""
    for picture in pictures("labelled", "val", "test"):
        save(root / f"{picture.name}.png", picture.pixels)
        save(root / f"{picture.name}_masks.png", label_map(picture))
    for picture in pictures("unlabelled"):
        save(root / "unlabelled" / f"{picture.name}.png", picture.pixels)


LAYOUTS = {
    "paired": paired,
    "sartorius": sartorius,
    "livecell": livecell,
    "class-tifs": class_tifs,
    "dsb2018": manifest,
    "label-maps": manifest,
}
# The presets with other models than the flow U-Net, most of them of source systems, by the layout that they read.
SYSTEMS = {
    "ensemble-cellpose-maskrcnn": sartorius,
    "ensemble-cellpose-maskrcnn-5fold": sartorius,
    "livecell-pretraining": livecell,
    "maskrcnn-two-stage": sartorius,
    "maskrcnn-two-stage-sgd": sartorius,
    "detectron2-thresholds": sartorius,
    "maskrcnn-center-boundary": class_tifs,
    "livecell-cbam": livecell,
    "livecell-transfer": livecell,
    "dsb2018-mixed": manifest,
}
