"""Reads the cells of one label map: 0 is background, every other value a cell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.label_map.foreground import foreground
from cellsemi.rounds.formats.shared.folder import check_fits
from cellsemi.rounds.store.image_codec import decode_label_map
from cellsemi.rounds.store.orientation import UPRIGHT, orientation
from cellsemi.rounds.store.schemas import ImageRecord


def cells_of_label_map(
    content: bytes, path: str, record: ImageRecord, max_pixels: int, pieces_are_cells: bool = False
) -> Instances:
    """The cells of an encoded label map as `cells_of_labels` gives them.

    ImageError also when it is damaged, and when it asks to be shown turned: nobody knows how it was drawn.
    """
    if orientation(content) != UPRIGHT:
        problem = f"a label map with the orientation {orientation(content)}"
        raise ImageError(path, problem, "save it as it is to be read, without the tag")
    return cells_of_labels(decode_label_map(content, path, max_pixels), path, record, pieces_are_cells)


def cells_of_labels(
    labels: NDArray[np.integer[Any]], path: str, record: ImageRecord, pieces_are_cells: bool = False
) -> Instances:
    """The cells of an integer (H, W) label map, class 0; ImageError when it is no label map of the image.

    A mask of foreground is refused: as a label map all cells of the image would be one. With `pieces_are_cells`
    (data.clean.parts: split) one of a single value is taken; the cleaning makes each of its pieces a cell.
    """
    check_fits(path, "the label map", labels.shape[0], labels.shape[1], record)
    check_numbered(labels, path, pieces_are_cells)
    return masks.from_label_map(labels, state="human")


def check_numbered(labels: NDArray[np.integer[Any]], path: str, pieces_are_cells: bool = False) -> None:
    """ImageError for a mask of foreground or of classes: its values do not number the cells."""
    found = foreground(labels)
    if found is None:
        return
    alone = not ((labels != 0) & (labels != found.value)).any()
    if alone and pieces_are_cells:
        return
    problem = (
        f"the value {found.value} stands in {found.pieces} pieces: a mask of foreground or of classes, not a label map"
    )
    remedy = "number the cells 1..N, for instance with scipy.ndimage.label"
    if alone:
        remedy += ", or --set data.clean.parts=split makes each piece a cell (cells that touch become one)"
    raise ImageError(path, problem, remedy)
