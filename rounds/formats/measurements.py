"""Writes a table of the cells: a CSV with position, size and shape of each."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.shape import centroid, eccentricity, perimeter
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.formats.registry import FormatSpec
from cellsemi.rounds.store.files import atomic_file
from cellsemi.rounds.store.schemas import ImageRecord

COLUMNS = (
    "image_id", "cell", "class", "score", "state", "area_px", "perimeter_px", "centroid_x", "centroid_y",
    "eccentricity", "bbox_x0", "bbox_y0", "bbox_x1", "bbox_y1",
)  # fmt: skip


def write_measurements(records: Iterable[ImageRecord], out: Path, classes: Sequence[str]) -> Exported:
    """Write a CSV file, a row per cell, one record in memory at a time. Ignored cells are in it, with their state.

    `cell` counts from 1 in each image. Lengths are in pixels; numbers that are not whole have four decimals.
    The centroid is the mean of the centres of the pixels, the centre of the pixel at the upper left being (0, 0).
    The box is half-open. Perimeter and eccentricity are those of `rounds/cells/shape.py`.
    Raises RunError when the file cannot be written.
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


def measured(image_id: str, cells: Instances, classes: Sequence[str]) -> Iterator[dict[str, object]]:
    """The row of each cell, by COLUMNS, with all digits."""
    for i, (crop, x0, y0) in enumerate(masks.crops(cells)):
        x, y = centroid(crop)
        stated = [image_id, i + 1, classes[cells.class_id[i]], float(cells.score[i]), cells.state[i]]
        sizes = [int(cells.area[i]), perimeter(crop), x0 + x, y0 + y, eccentricity(crop)]
        yield dict(zip(COLUMNS, [*stated, *sizes, *cells.bbox[i].tolist()], strict=True))


def _rows(image_id: str, cells: Instances, classes: Sequence[str]) -> Iterator[list[object]]:
    for row in measured(image_id, cells, classes):
        yield [f"{value:.4f}" if isinstance(value, float) else value for value in row.values()]


def _lines(rows: Iterable[Sequence[object]]) -> bytes:
    buffer = StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


MEASUREMENTS = FormatSpec("measurements", writer=write_measurements)
