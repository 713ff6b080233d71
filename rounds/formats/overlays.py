"""Writes pictures for people: each image with the outlines of its cells, in the colours of their classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.drawing import overlay, scaled
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.formats.registry import FormatSpec
from cellsemi.rounds.formats.shared.folder import check_id
from cellsemi.rounds.store.files import write_bytes
from cellsemi.rounds.store.image_codec import decode_image, intensity_range
from cellsemi.rounds.store.schemas import ImageRecord


def write_overlays(records: Iterable[ImageRecord], out: Path, classes: Sequence[str]) -> Exported:
    """Write ID.png for each record into the folder `out`: 8 bits, from the dark to the bright end of the image.

    A record without its image is drawn on black and counted. Raises ImageError when an image cannot be decoded,
    DataError for an id that is no file name, RunError when a file cannot be written.
    """
    done = Exported()
    for record in records:
        check_id(record.image_id, str(out))
        cells = record.instances or Instances.empty(record.height, record.width)
        if record.image is None:
            done.losses["images not in the table, drawn as black"] += 1
        picture = to_picture(record.image, record, cells, classes)
        name = f"{record.image_id}.png"
        write_bytes(out / name, picture)
        done.files.append(name)
        done.images += 1
        done.cells += len(cells)
    return done


def to_picture(content: bytes | None, record: ImageRecord, cells: Instances, classes: Sequence[str]) -> bytes:
    """The PNG of an image (its encoded bytes; None: black) with the outlines of its cells, at its own size."""
    if content is None:
        ground = np.zeros((record.height, record.width, 3), np.uint8)
    else:
        pixels = decode_image(content, record.source, record.height * record.width)
        low, high = intensity_range(pixels) if record.low is None or record.high is None else (record.low, record.high)
        ground = scaled(pixels, low, high)
    buffer = BytesIO()
    Image.fromarray(overlay(ground, cells, classes)).save(buffer, "PNG")
    return buffer.getvalue()


OVERLAYS = FormatSpec("overlays", writer=write_overlays, writes_folder=True)
