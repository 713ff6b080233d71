"""A table of the cells: where each lies, how large and how elongated it is, as a CSV with a row per cell."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from math import sqrt
from pathlib import Path

import numpy as np

from cellsemi.rounds import masks
from cellsemi.rounds.files import atomic_file
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.instances import Instances
from cellsemi.rounds.masks import Bitmap
from cellsemi.rounds.tables import ImageRecord

COLUMNS = (
    "image_id", "cell", "class", "score", "state", "area_px", "perimeter_px", "centroid_x", "centroid_y",
    "eccentricity", "bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1",
)  # fmt: skip

# Length that a border pixel adds, by what touches it (Benkrid and Crookes 2000, Design and FPGA implementation of
# a perimeter estimator): 1 for itself, 2 for each border pixel beside, above or below it, 10 for each at a corner.
_LENGTH = np.zeros(50)
_LENGTH[[5, 7, 15, 17, 25, 27]] = 1
_LENGTH[[21, 33]] = sqrt(2)
_LENGTH[[13, 23]] = (1 + sqrt(2)) / 2


def write(records: Iterable[ImageRecord], out: Path, classes: Sequence[str]) -> Exported:
    """Write a CSV file, a row per cell, one record in memory at a time. Ignored cells are in it, with their state.

    `cell` counts from 1 in each image. Lengths are in pixels; numbers that are not whole have four decimals.
    The centroid is the mean of the centres of the pixels, the centre of the pixel at the upper left being (0, 0).
    The box is half-open. Perimeter and eccentricity are defined as in scikit-image's regionprops: `perimeter`
    and `eccentricity` here. Raises RunError when the file cannot be written.
    """
    done = Exported(files=[out.name])
    with atomic_file(out) as file:
        file.write(_lines([COLUMNS]))
        for record in records:
            done.images += 1
            if record.instances is None:
                done.losses["images that were never annotated, without rows"] += 1
                continue
            file.write(_lines(_rows(record.image_id, record.instances, classes)))
            done.cells += len(record.instances)
    return done


def perimeter(crop: Bitmap) -> float:
    """Length of the outline of a bool (h, w) mask in pixels: the sum of _LENGTH over its border pixels.

    Border pixels have background beside, above or below; all beyond the bitmap is background.
    """
    inside = np.pad(crop, 1)
    core = inside[1:-1, 1:-1] & inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    border = np.pad(crop & ~core, 1).astype(np.int64)
    rows = border[:-2] + border[2:]
    beside = rows[:, 1:-1] + border[1:-1, :-2] + border[1:-1, 2:]
    corners = rows[:, :-2] + rows[:, 2:]
    return float(_LENGTH[(1 + 2 * beside + 10 * corners)[border[1:-1, 1:-1] == 1]].sum())


def eccentricity(cxx: float, cyy: float, cxy: float) -> float:
    """That of the ellipse with these second central moments (variances and covariance of x and y), in [0, 1].

    0 for a circle and a single pixel, 1 for a line one pixel wide: pixels count as points.
    """
    middle, reach = (cxx + cyy) / 2, sqrt(((cxx - cyy) / 2) ** 2 + cxy**2)
    if middle + reach == 0:
        return 0.0
    return sqrt(max(0.0, 1 - (middle - reach) / (middle + reach)))


def _rows(image_id: str, cells: Instances, classes: Sequence[str]) -> Iterator[list[object]]:
    for i, (crop, x0, y0) in enumerate(masks.crops(cells)):
        y, x = np.nonzero(crop)
        mean_x, mean_y = float(x.mean()), float(y.mean())
        dx, dy = x - mean_x, y - mean_y
        moments = (float(dx @ dx) / len(x), float(dy @ dy) / len(x), float(dx @ dy) / len(x))
        exact = (perimeter(crop), x0 + mean_x, y0 + mean_y, eccentricity(*moments))
        score = f"{cells.score[i]:.4f}"
        said = [image_id, i + 1, classes[cells.class_id[i]], score, cells.state[i], int(cells.area[i])]
        yield [*said, *(f"{value:.4f}" for value in exact), *cells.bbox[i].tolist()]


def _lines(rows: Iterable[Sequence[object]]) -> bytes:
    buffer = StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()
