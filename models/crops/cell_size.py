"""Measures the typical cell of the human labels, and sets the scale at which a network sees images.

Cellpose asks for the diameter of the cells and brings each image to the one that its network knows (Stringer et al.
2021). Here the human labels tell it, once for a model: new images have no labels, and seldom a known group. Sizes that
the labels lack are for the random scale of the crops, and for the scale search.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from cellsemi.configs.errors import DataError
from cellsemi.configs.training import AUTO_CELL_PX
from cellsemi.models.base import FitTask
from cellsemi.models.crops.sampling import columns
from cellsemi.models.model_files import CellSize, read_model_file
from cellsemi.rounds.store import files
from cellsemi.rounds.store.folds import HUMAN_SPLIT


def cell_size_of(task: FitTask) -> CellSize:
    """The cell size that a fit trains with; that of its teacher where it has one.

    Pseudo-labels do not count, so that all rounds measure the same. DataError when `training.cell_px` is a number
    and there is no human-labelled cell to measure.
    """
    if task.teacher is not None:
        return read_model_file(files.place(task.teacher)).cell_size
    diameter = typical_diameter([files.place(path) for path in task.shards])
    wanted = task.training.cell_px
    if diameter is None and wanted not in (None, AUTO_CELL_PX):
        raise DataError(
            f"{', '.join(task.shards)}: training.cell_px is {wanted} but no cell is human-labelled, so that no size is "
            "known; label a few cells, or set training.cell_px to null"
        )
    if wanted == AUTO_CELL_PX:
        resizes = task.training.resize_px is not None
        wanted = None if diameter is None or resizes else task.model.auto_cell_px(diameter)
    scale = 1.0 if wanted is None or diameter is None else wanted / diameter
    return CellSize(diameter_px=diameter, scale=scale, resize_px=task.training.resize_px)


def typical_diameter(shards: Sequence[Path]) -> float | None:
    """The median over the human-labelled cells of some shards of the diameter of a disc of their area, in pixels.

    None when there is no such cell.
    """
    areas = np.concatenate([np.zeros(0, np.int64), *(_human_areas(path) for path in shards)])
    return float(np.median(2 * np.sqrt(areas / np.pi))) if len(areas) else None


def _human_areas(path: Path) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The area of every human cell of the human-labelled images of a shard."""
    table = columns(path, "split", "instances.list.element.area", "instances.list.element.state")
    cells = table.filter(pc.equal(table["split"], HUMAN_SPLIT))["instances"].combine_chunks()
    flat = pc.list_flatten(cells)
    areas = flat.field("area").filter(pc.equal(flat.field("state"), "human"))
    return np.asarray(areas.to_numpy(zero_copy_only=False), np.int64)
