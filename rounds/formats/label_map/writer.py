"""Writes label maps: ID_masks.tif beside the image, the layout that Cellpose trains from and its GUI opens.

What every format with one cell per pixel shares is here, too: whose pixel it is, and what is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.formats.shared.overlaps import one_cell_a_pixel
from cellsemi.rounds.formats.shared.per_image import write_each
from cellsemi.rounds.store.schemas import ImageRecord

Labels = NDArray[np.uint16] | NDArray[np.uint32]


def write_label_maps(records: Iterable[ImageRecord], out: Path, classes: Sequence[str]) -> Exported:
    """Write ID_masks.tif (zlib; uint16, uint32 above 65,535 cells) and the image as it came into the folder `out`.

    Where cells overlap the one with the higher score keeps the pixel, ties by index. Raises as `write_each` does.
    """

    def encode(cells: Instances, _image: str, done: Exported) -> bytes:
        return to_tiff(to_labels(one_cell_a_pixel(cells, done, len(classes) > 1)))

    return write_each(records, out, "_masks.tif", encode)


def to_labels(cells: Instances) -> Labels:
    """The (H, W) label map of cells that do not overlap, cell i as i + 1; uint32 above 65,535 cells."""
    labels = masks.to_label_map(cells)
    return labels.astype(np.uint16) if len(cells) <= np.iinfo(np.uint16).max else labels.astype(np.uint32)


def to_tiff(labels: Labels) -> bytes:
    """TIFF bytes of a label map, zlib-compressed, without a date: equal maps give equal bytes."""
    buffer = BytesIO()
    tifffile.imwrite(buffer, labels, compression="zlib", metadata=None, software=False)
    return buffer.getvalue()
