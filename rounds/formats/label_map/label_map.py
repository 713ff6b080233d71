"""Reads the cells of one label map: 0 is background, every other value a cell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.shared.folder import check_fits
from cellsemi.rounds.store.image_codec import decode_label_map
from cellsemi.rounds.store.schemas import ImageRecord


def cells_of_label_map(content: bytes, path: str, record: ImageRecord, max_pixels: int) -> Instances:
    """The cells of an encoded label map, class 0; ImageError when it is damaged or does not fit the image."""
    return cells_of_labels(decode_label_map(content, path, max_pixels), path, record)


def cells_of_labels(labels: NDArray[np.integer[Any]], path: str, record: ImageRecord) -> Instances:
    """The cells of an integer (H, W) label map, class 0; ImageError when it is no label map of the image."""
    check_fits(path, "the label map", labels.shape[0], labels.shape[1], record)
    _check_not_binary(labels, path)
    return masks.from_label_map(labels, state="human")


def _check_not_binary(labels: NDArray[np.integer[Any]], path: str) -> None:
    """ImageError for a mask of foreground (0 and 255): as a label map it would be one cell in many pieces."""
    top = int(labels.max())
    if top in (255, 65535) and not ((labels != 0) & (labels != top)).any():
        pieces = int(ndimage.label(labels)[1])
        if pieces > 1:
            raise ImageError(
                path,
                f"only 0 and {top}, in {pieces} pieces: a mask of foreground, not a label map",
                "number the cells 1..N, for instance with scipy.ndimage.label",
            )
