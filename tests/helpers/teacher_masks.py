"""Folders of masks for tests of teachers that are not trained: the hidden truth of a run, spoiled where asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellsemi.configs.schema import Config
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.datasets.open import open_data
from cellsemi.rounds.datasets.synthetic import hidden_truth
from cellsemi.rounds.formats.label_map.writer import to_labels, to_tiff
from cellsemi.rounds.store import files
from cellsemi.rounds.store.schemas import ImageRecord

Spoil = Callable[[Instances], Instances]


def truth(config: Config, splits: Iterable[str] = ("labelled", "unlabelled", "val", "test")) -> dict[str, ImageRecord]:
    """Every image of a generated data set with its cells, those of unlabelled images, too."""
    found = {}
    for item in open_data(config).items:
        if item.split in splits:
            cells = hidden_truth(config.data.generated, config.data.classes, config.run.seed, item.image_id)
            found[item.image_id] = replace(item.load().record, split=str(item.split), instances=cells)
    return found


def write_masks(folder: Path, records: Iterable[ImageRecord], spoil: Spoil = lambda cells: cells) -> Path:
    """A label map for each image, NAME_masks.tif."""
    for record in records:
        assert record.instances is not None
        files.write_bytes(folder / f"{record.image_id}_masks.tif", to_tiff(to_labels(spoil(record.instances))))
    return folder


def every_other(cells: Instances) -> Instances:
    """Half of the cells."""
    return cells.select(np.arange(0, len(cells), 2))


def nothing(cells: Instances) -> Instances:
    """No cell: the tool has looked at the image and found none."""
    return cells.select([])
