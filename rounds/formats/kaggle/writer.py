"""Writes Kaggle submissions: `id,predicted`, a row per cell, as run lengths without overlaps.

An image without cells has one row with an empty `predicted`. The file takes its name only after
submission_check, which shares no code with this module, has found nothing wrong with it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path

from cellsemi.configs.errors import DataError
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.formats.kaggle import rle
from cellsemi.rounds.formats.kaggle.check import check
from cellsemi.rounds.formats.shared.overlaps import one_cell_a_pixel
from cellsemi.rounds.store.files import atomic_file
from cellsemi.rounds.store.schemas import ImageRecord

SHOWN_PROBLEMS = 5  # problems that a message names


def write_submission(
    records: Iterable[ImageRecord], out: Path, classes: Sequence[str], order: rle.Order = "row"
) -> Exported:
    """Write a submission to the file `out`; pixels are counted row after row, as Sartorius has it.

    Where cells overlap the one with the higher score keeps the pixel, ties by index. `losses` counts the
    pixels and cells given up so, ignored cells, and what the format has no place for: scores below 1, and
    classes when there are several. Raises DataError for a record without cells (never predicted, as opposed
    to empty) or when the written file fails its check; RunError when it cannot be written.
    """
    done = Exported(files=[out.name])
    sizes: dict[str, tuple[int, int]] = {}
    with atomic_file(out) as file:
        file.write(b"id,predicted\n")
        for record in records:
            sizes[_checked_id(record, sizes)] = record.height, record.width
            if record.instances is None:
                raise DataError(f"image {record.image_id!r} has no cells and is not known to be empty; leave it out")
            cells = one_cell_a_pixel(record.instances, done, len(classes) > 1)
            texts = rle.texts_of(cells, order) if len(cells) else [""]
            for text in texts:
                file.write(_line(record.image_id, text))
            done.images += 1
        file.flush()
        problems = check(Path(file.name), sizes, order).problems
        if problems:
            shown = "".join(f"\n  {problem}" for problem in problems[:SHOWN_PROBLEMS])
            raise DataError(f"{out}: the submission is not valid and was not kept:{shown}")
    return done


def write_column_major(records: Iterable[ImageRecord], out: Path, classes: Sequence[str]) -> Exported:
    """`write_submission` with pixels counted column after column, as DSB2018 has it."""
    return write_submission(records, out, classes, "column")


def _checked_id(record: ImageRecord, seen: dict[str, tuple[int, int]]) -> str:
    image_id = record.image_id
    if not image_id.strip() or "\n" in image_id or "\r" in image_id:
        raise DataError(f"image id {image_id!r} cannot stand in a line of a CSV; give the image another name")
    if image_id in seen:
        raise DataError(f"image id {image_id!r} comes twice; a submission has each image once")
    return image_id


def _line(image_id: str, text: str) -> bytes:
    buffer = StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([image_id, text])
    return buffer.getvalue().encode()
