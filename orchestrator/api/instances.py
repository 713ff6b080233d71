"""Defines the cells of an image as a user gets them: they know their image, and the names of their classes."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellsemi.configs.errors import UsageError
from cellsemi.configs.formats import entry_of
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import COLUMNS, Instances
from cellsemi.rounds.formats.measurements import measured
from cellsemi.rounds.formats.overlays import to_picture
from cellsemi.rounds.formats.registry import spec_of
from cellsemi.rounds.store import files
from cellsemi.rounds.store.image_record import record_of
from cellsemi.rounds.store.schemas import ImageRecord

if TYPE_CHECKING:
    import pandas as pd

# The ending of a file -> the format that is written into it; the longest that fits is taken.
ENDINGS = {
    ".geojson": "geojson",
    ".json": "coco",
    ".zip": "imagej-rois",
    "_seg.npy": "seg-npy",
    ".tif": "label-maps",
    ".tiff": "label-maps",
    ".csv": "measurements",
    ".png": "overlays",
}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ImageInstances(Instances):
    """The cells of one image, with the names of their classes and the image itself.

    All columns of Instances, and `classes`, the names that `class_id` counts; `image_id`; `pixels`, the image as
    (H, W) or (H, W, 3), or None; `path`, the file that it came from, "" for an array.
    """

    classes: tuple[str, ...] = ()
    image_id: str = "image"
    pixels: NDArray[Any] | None = None
    path: str = ""

    @classmethod
    def of(
        cls,
        cells: Instances,
        classes: Sequence[str],
        image_id: str = "image",
        pixels: NDArray[Any] | None = None,
        path: str = "",
    ) -> Self:
        """Cells with what is known about their image; ValueError when there is a class without a name."""
        if len(cells) and int(cells.class_id.max()) >= len(classes):
            raise ValueError(f"cells of class {int(cells.class_id.max())}, but only {len(classes)} names: {classes}")
        columns: dict[str, Any] = {name: getattr(cells, name) for name in COLUMNS}
        known: dict[str, Any] = {"classes": tuple(classes), "image_id": image_id, "pixels": pixels, "path": path}
        return cls(height=cells.height, width=cells.width, **columns, **known)

    def class_names(self) -> list[str]:
        """The name of the class of each cell."""
        return [self.classes[i] for i in self.class_id.tolist()]

    def label_map(self) -> NDArray[np.int32]:
        """int32 (H, W): 0 is background, cell i is i + 1. Where masks overlap, the higher score keeps the pixel."""
        return masks.to_label_map(self)

    def table(self) -> pd.DataFrame:
        """One row per cell: class, score, area, perimeter, centroid, eccentricity, box; lengths in pixels."""
        import pandas as pd

        return pd.DataFrame(list(measured(self.image_id, self, self.classes)))

    def save(self, path: str | Path) -> Path:
        """Write the cells into a file and return its path; an existing file is replaced.

        The format follows from the ending: `.geojson` QuPath, `.json` COCO, `.zip` ImageJ regions of interest,
        `_seg.npy` Cellpose, `.tif` label map, `.csv` measurements, `.png` picture with outlines. UsageError for any
        other; RunError when the file cannot be written.
        """
        path = Path(path)
        ending = max((end for end in ENDINGS if path.name.lower().endswith(end)), key=len, default=None)
        if ending is None:
            raise UsageError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")
        files.write_bytes(path, self._as(ENDINGS[ending]))
        return path

    def picture(self) -> bytes:
        """PNG: the image at its own size, black where it is not known, with the outlines of the cells."""
        record = self._record()
        return to_picture(record.image, record, self, self.classes)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        return self.picture()

    def _record(self) -> ImageRecord:
        if self.pixels is None:
            return ImageRecord(self.image_id, self.height, self.width, "", source=self.path, instances=self)
        content = _encoded(self.pixels, self.path)
        return record_of(self.pixels, self.image_id, self.path, "", content).with_(instances=self)

    def _as(self, name: str) -> bytes:
        """The annotation file of a format."""
        writer = spec_of(name).writer
        assert writer is not None, f"{name} is not written"
        with tempfile.TemporaryDirectory(prefix="cellsemi-") as folder:
            file = entry_of(name).file
            written = writer([self._record()], Path(folder) / file if file else Path(folder), self.classes)
            return (Path(folder) / written.files[0]).read_bytes()


def _encoded(pixels: NDArray[Any], path: str) -> bytes:
    """The image as a file: that which it came from, else a TIFF."""
    if path and Path(path).is_file():
        return Path(path).read_bytes()
    buffer = BytesIO()
    kind = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(buffer, pixels, metadata=None, photometric=kind)
    return buffer.getvalue()
