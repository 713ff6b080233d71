"""Writes an annotation file for each image and the image beside it: OUT/ID.zip and OUT/ID.png."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from cellsemi.configs.errors import DataError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.formats.shared.folder import check_id, split_extension
from cellsemi.rounds.store.files import write_bytes
from cellsemi.rounds.store.image_codec import EXTENSIONS
from cellsemi.rounds.store.schemas import ImageRecord

Encode = Callable[[Instances, str, Exported], bytes]

NOT_IN_TABLE = "images not in the table"  # counted where only the annotation could be written
_TIFF = (".tif", ".tiff")
_BEGINNINGS = {
    b"\x89PNG": (".png",),
    b"\xff\xd8\xff": (".jpg", ".jpeg"),
    b"BM": (".bmp",),
    b"II": _TIFF,
    b"MM": _TIFF,
}


def write_each(records: Iterable[ImageRecord], out: Path, ending: str, encode: Encode) -> Exported:
    """Write a file ID + `ending` for each record, and its image as it came beside it, one record in memory at a time.

    `encode` gets the cells, the name of the image's file and the export; it returns the content of the file, and
    counts cells and losses. Raises DataError for a record without cells (never annotated, as opposed to empty), for
    an id that is no file name, and where two records need the same name; RunError when a file cannot be written.
    """
    done = Exported()
    written: dict[str, str] = {}  # name of a file -> id
    for record in records:
        check_id(record.image_id, str(out))
        if record.instances is None:
            raise DataError(f"image {record.image_id!r} has no cells and is not known to be empty; leave it out")
        image, annotation = image_file(record), record.image_id + ending
        for name in (image, annotation):
            if name in written:
                raise DataError(f"{out / name}: {_clash(written[name], record.image_id)}; rename one")
            written[name] = record.image_id
        _write(out / annotation, encode(record.instances, image, done), done)
        if record.image is None:
            done.losses[NOT_IN_TABLE] += 1
        else:
            _write(out / image, record.image, done)
        done.images += 1
    return done


def _write(path: Path, content: bytes, done: Exported) -> None:
    write_bytes(path, content)
    done.files.append(path.name)


def _clash(first: str, second: str) -> str:
    """Why two records need one file."""
    return f"image id {first!r} comes twice" if first == second else f"the images {first!r} and {second!r} need it both"


def image_file(record: ImageRecord) -> str:
    """The name of the file of an image: its id, with the extension of its source where its bytes are of that kind,
    else with that of their kind."""
    image, extension = record.image or b"", split_extension(record.source)[1]
    kinds = next((kinds for beginning, kinds in _BEGINNINGS.items() if image.startswith(beginning)), (extension,))
    known = kinds[0] if extension not in kinds else extension
    return record.image_id + (known if known in EXTENSIONS else _TIFF[0])
