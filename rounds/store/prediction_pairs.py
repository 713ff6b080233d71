"""Reads predictions and human labels side by side from folders of shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import scorable
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.schemas import ImageRecord


def cells_of(*folders: Path) -> Iterator[Instances]:
    """The cells of each image of some folders that was annotated or predicted."""
    records = chain.from_iterable(shards.read_folder(folder) for folder in folders)
    return (record.instances for record in records if record.instances is not None)


def cell_columns(folders: Iterable[Path], names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """Of each shard of some folders: how many of its images were annotated or predicted, and columns of their cells.

    No mask is read unless `rle` is one of the `names`.
    """
    wanted = [f"instances.list.element.{name}" for name in names]
    for table in chain.from_iterable(shards.iter_columns(folder, wanted) for folder in folders):
        lists = table["instances"].combine_chunks()
        flat = pc.list_flatten(lists)
        yield len(lists) - lists.null_count, pa.table({name: flat.field(name) for name in names})


def paired(predicted: Path, truth: Path) -> Iterator[tuple[str, Instances, Instances]]:
    """(image id, predictions, human cells) of each image that was predicted; ValueError when the folders do not fit.

    Images that a teacher lacks (masks of another tool) are left out: they are missing, not empty. What people marked to
    be ignored is neither missed nor found wrongly (`scorable`).
    """
    for known, cells, true in _rows(predicted, truth):
        yield known.image_id, cells, true


def _rows(predicted: Path, truth: Path) -> Iterator[tuple[ImageRecord, Instances, Instances]]:
    for found, known in zip(shards.read_folder(predicted), shards.read_folder(truth), strict=True):
        if found.image_id != known.image_id or known.instances is None:
            raise ValueError(f"{predicted}: expected cells of {known.image_id!r}, got {found.image_id!r}")
        if found.instances is None:
            continue
        yield known, *scorable(found.instances, known.instances)


def scored_pairs(predicted: Path, truth: Path) -> Iterator[tuple[Instances, Instances]]:
    """(predictions, human cells) of each image of two folders that hold the same images in order."""
    for _, cells, true in paired(predicted, truth):
        yield cells, true


def all_pairs(folders: Iterable[tuple[Path, Path]]) -> list[tuple[Instances, Instances]]:
    """`scored_pairs` of several (predictions, images) folders, one after the other."""
    return [pair for folder in folders for pair in scored_pairs(*folder)]


def grouped_pairs(folders: Iterable[tuple[Path, Path]]) -> tuple[list[tuple[Instances, Instances]], list[str]]:
    """`all_pairs`, and the group of each image; an image without one is its own."""
    rows = [row for folder in folders for row in _rows(*folder)]
    return [(cells, true) for _, cells, true in rows], [known.group or known.image_id for known, _, _ in rows]
