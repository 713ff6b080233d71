"""Exports with one annotation file per image, the image beside it: OUT/ID.zip and OUT/ID.png."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from cellsemi.configs.errors import DataError
from cellsemi.rounds.files import write_bytes
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.formats.folder import check_id, split_extension
from cellsemi.rounds.images import EXTENSIONS
from cellsemi.rounds.instances import Instances
from cellsemi.rounds.tables import ImageRecord

Encode = Callable[[Instances, Exported], bytes]

NOT_IN_TABLE = "images not in the table"  # counted where only the annotation could be written
_BEGINNINGS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg"}  # of the files of records that name none


def write_each(records: Iterable[ImageRecord], out: Path, ending: str, encode: Encode) -> Exported:
    """Write a file ID + `ending` for each record, and its image as it came beside it, one record in memory at a time.

    `encode` returns the content of the file, and counts cells and losses in what it is given. Raises DataError for
    a record without cells (never annotated, as opposed to empty), for an id that is no file name, or comes twice;
    RunError when a file cannot be written.
    """
    done = Exported()
    seen: set[str] = set()
    for record in records:
        cells = _checked(record, out, seen)
        _write(out / f"{record.image_id}{ending}", encode(cells, done), done)
        if record.image is None:
            done.losses[NOT_IN_TABLE] += 1
        else:
            _write(out / f"{record.image_id}{_extension(record, record.image)}", record.image, done)
        done.images += 1
    return done


def _checked(record: ImageRecord, out: Path, seen: set[str]) -> Instances:
    """The cells of a record that can be written."""
    check_id(record.image_id, str(out))
    if record.image_id in seen:
        raise DataError(f"{out}: image id {record.image_id!r} comes twice; rename one")
    seen.add(record.image_id)
    if record.instances is None:
        raise DataError(f"image {record.image_id!r} has no cells and is not known to be empty; leave it out")
    return record.instances


def _write(path: Path, content: bytes, done: Exported) -> None:
    write_bytes(path, content)
    done.files.append(path.name)


def _extension(record: ImageRecord, image: bytes) -> str:
    """The extension of the image's file: that of its source, else by how the bytes begin."""
    extension = split_extension(record.source)[1]
    if extension in EXTENSIONS:
        return extension
    return next((ext for beginning, ext in _BEGINNINGS.items() if image.startswith(beginning)), ".tif")
