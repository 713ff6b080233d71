"""Builds Kaggle's CSV files of run lengths and their images for the tests of the format."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.data import DataConfig
from cellsemi.configs.schema import Config
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.ingest_report import IngestReport
from cellsemi.rounds.datasets.open import Opened, open_data
from cellsemi.rounds.datasets.read_shards import read_record
from cellsemi.rounds.formats.base import parts_of
from cellsemi.rounds.formats.kaggle.reader import RleCsv
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.schemas import ImageRecord

Mask = NDArray[np.bool_]
SARTORIUS = "id,annotation,width,height,cell_type,plate_time,sample_date,sample_id,elapsed_timedelta"
SIZE = (39, 53)  # height, width: an oblong image, as Sartorius' 520x704


def text_of(mask: Mask, order: Literal["row", "column"] = "row") -> str:
    """Run lengths written pixel by pixel, by nothing that is under test."""
    flat = (mask if order == "row" else mask.T).reshape(-1)
    padded = np.concatenate([[0], flat, [0]]).astype(int)
    edges = np.flatnonzero(np.diff(padded)) + 1
    return " ".join(f"{start} {end - start}" for start, end in zip(edges[::2], edges[1::2], strict=True))


def disc(y: int, x: int, radius: float, size: tuple[int, int] = SIZE) -> Mask:
    rows, columns = np.mgrid[: size[0], : size[1]]
    found: Mask = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    return found


def holed() -> Mask:
    return disc(25, 35, 7) & ~disc(25, 35, 2)


def broken() -> Mask:
    mask = disc(12, 40, 6)
    mask[11:13] = False
    return mask


CELLS: dict[str, list[Mask]] = {
    "0030fd0e6378": [disc(10, 12, 6), disc(14, 15, 6), holed()],  # the first two overlap
    "01ae5a43a2ab": [broken(), disc(30, 8, 9)],
    "026b3c2c4b32": [disc(20, 0, 8), disc(38, 52, 5)],  # at the edges
}
KINDS = {"0030fd0e6378": "shsy5y", "01ae5a43a2ab": "astro", "026b3c2c4b32": "shsy5y"}


def image(seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def put_images(root: Path, folder: str, *ids: str, size: tuple[int, int] = SIZE) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, image_id in enumerate(ids):
        (root / folder / f"{image_id}.png").write_bytes(to_png(image(seed, size)))


def sartorius_rows() -> list[str]:
    """One row per cell, the images in turn, so that the rows of none stand together."""
    rows = []
    for number in range(3):
        for image_id, cells in CELLS.items():
            if number < len(cells):
                sample = f"{KINDS[image_id]}[diff]_E10-4_{image_id[:2]}"
                rest = f"53,39,{KINDS[image_id]},11h30m00s,2020-11-01,{sample},0 days 11:30:00"
                rows.append(f"{image_id},{text_of(cells[number])},{rest}")
    return rows


def make(root: Path, lines: list[str] | None = None) -> Path:
    put_images(root, "train", *CELLS)
    rows = [SARTORIUS, *sartorius_rows()] if lines is None else lines
    (root / "train.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def config(root: Path, **options: Any) -> DataConfig:
    options = {"images": "train", "annotations": "train.csv", "classes": ("shsy5y", "astro"), **options}
    return DataConfig(source="rle-csv", root=str(root), **options)


def listed(root: Path, **options: Any) -> Opened:
    """The one part of the data set, without drawn splits."""
    (part,) = parts_of(config(root, **options))
    reader = RleCsv(part)
    return Opened(tuple(reader.items()), reader.classes, reader.notes)


def read_all(root: Path, **options: Any) -> dict[str, ImageRecord]:
    found = Config(data=config(root, **options))
    items = open_data(found).items
    records = [read_record(item, ClassNames(found.data), IngestReport()) for item in items]
    return {record.image_id: record for record in records}


def bitmaps(record: ImageRecord) -> list[Mask]:
    assert record.instances is not None
    return [decode(rle, record.height, record.width) for rle in record.instances.rle]


def same(found: list[Mask], expected: list[Mask]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))
