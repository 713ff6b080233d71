"""Reads and writes Cellpose's NAME_seg.npy: a dict with the label map `masks` and what the GUI keeps.

Cellpose loads these pickles with NumPy, which runs whatever a file asks for; here `npy_file` reads them without.
A label map that was saved with `np.save` alone is read, too. What is written has the keys that
cellpose.io.masks_flows_to_seg writes and cellpose.gui.io reads (versions 2 to 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.base import Exported, FileCells
from cellsemi.rounds.formats.cellpose.npy_file import read_npy
from cellsemi.rounds.formats.cellpose.safe_pickle import StoredArray
from cellsemi.rounds.formats.label_map.label_map import cells_of_labels
from cellsemi.rounds.formats.label_map.writer import Labels, to_labels
from cellsemi.rounds.formats.registry import FormatSpec
from cellsemi.rounds.formats.shared.overlaps import one_cell_a_pixel
from cellsemi.rounds.formats.shared.per_image import write_each
from cellsemi.rounds.store.schemas import ImageRecord

ENDING = "_seg.npy"
NO_FLOWS: list[Any] = [[], [], [], [], [[]]]  # what the GUI saves when no network was run


def read_seg_npy(content: bytes, path: str, record: ImageRecord) -> FileCells:
    """The cells of a `_seg.npy`, or of a plain (H, W) array of integers; they have no class of their own.

    Raises ImageError when the file is damaged, asks to run code, holds no label map, or one that does not fit.
    """
    labels = _masks(read_npy(content, path), path).integers(path, "the masks")
    if labels.min() < 0:
        raise ImageError(path, f"the masks hold {labels.min()}", "expected 0 (background) and 1..N for the cells")
    return FileCells(cells_of_labels(labels, path, record))


def _masks(stored: StoredArray, path: str) -> StoredArray:
    """The array `masks` of the one dict in a file of objects, or the file's own numbers."""
    if not isinstance(stored.data, list):
        return stored
    saved = stored.data[0] if len(stored.data) == 1 else None
    found = saved.get("masks") if isinstance(saved, dict) else None
    if not isinstance(found, StoredArray):
        keys = f"; it has: {', '.join(sorted(saved))[:200]}" if isinstance(saved, dict) else ""
        raise ImageError(path, f"no array 'masks' in it{keys}", "save it in Cellpose, or with np.save(name, masks)")
    return found


def write_seg_npy(records: Iterable[ImageRecord], out: Path, classes: Sequence[str]) -> Exported:
    """Write ID_seg.npy and the image as it came into the folder `out`, which the Cellpose GUI then opens.

    Where cells overlap the one with the higher score keeps the pixel, ties by index. Raises as `write_each` does.
    """

    def encode(found: Instances, image: str, done: Exported) -> bytes:
        cells = one_cell_a_pixel(found, done, len(classes) > 1)
        return to_seg_npy(to_labels(cells), cells, image)

    return write_each(records, out, ENDING, encode)


def to_seg_npy(labels: Labels, cells: Instances, image: str) -> bytes:
    """The bytes of a `_seg.npy`; `image` is the name of the image's file, which lies beside it."""
    diameter = float(np.median(np.sqrt(cells.area * 4 / np.pi))) if len(cells) else 0.0
    saved = {
        "outlines": outlines(labels),
        "masks": labels,
        "chan_choose": [0, 0],
        "ismanual": np.array([state == "human" for state in cells.state], bool),
        "filename": image,
        "flows": NO_FLOWS,
        "est_diam": diameter,
        "diameter": diameter,
    }
    buffer = BytesIO()
    np.save(buffer, np.array(saved, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def outlines(labels: Labels) -> Labels:
    """The label map with only those pixels of a cell that touch another value, or the border, at a side."""
    edge = np.zeros(labels.shape, bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    drawn = labels.copy()
    drawn[~edge] = 0
    return drawn


SEG_NPY = FormatSpec("seg-npy", read_annotation=read_seg_npy, writer=write_seg_npy, writes_folder=True)
