"""Writes records to one COCO file, cell by cell: masks as compressed run lengths, overlaps and crowds kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.formats.shared.folder import split_extension
from cellsemi.rounds.store.files import atomic_file
from cellsemi.rounds.store.schemas import ImageRecord

SCORE_DIGITS = 6


def write_coco(records: Iterable[ImageRecord], out: Path, classes: Sequence[str]) -> Exported:
    """Write a COCO file, a line per cell, one record in memory at a time.

    Image and annotation ids count from 1; a category id is the class id + 1. Cells in the state "ignored" are
    crowds; cells that are not "human" have a "score". COCO cannot tell an image that was never annotated from
    one without cells: those are counted as a loss. Raises RunError when the file cannot be written.
    """
    exported = Exported(files=[out.name])
    images: list[str] = []
    names: set[str] = set()
    with atomic_file(out) as file:
        file.write(b'{"info": {"description": "written by cellsemi"}, "licenses": [],\n"annotations": [')
        for record in records:
            images.append(_line(_image(record, len(images) + 1, names)))
            if record.instances is None:
                exported.losses["images that were never annotated, written as images without cells"] += 1
                continue
            for annotation in _annotations(record.instances, len(images), exported.cells + 1):
                file.write((",\n" if exported.cells else "\n").encode() + _line(annotation).encode())
                exported.cells += 1
        categories = [_line({"id": i, "name": name}) for i, name in enumerate(classes, start=1)]
        file.write(f'],\n"images": [\n{_lines(images)}],\n"categories": [\n{_lines(categories)}]}}\n'.encode())
    exported.images = len(images)
    return exported


def _image(record: ImageRecord, number: int, names: set[str]) -> dict[str, object]:
    return {"id": number, "file_name": _name(record, names), "height": record.height, "width": record.width}


def _annotations(cells: Instances, image: int, first: int) -> Iterator[dict[str, object]]:
    columns = zip(cells.class_id.tolist(), cells.bbox.tolist(), cells.area.tolist(), cells.score.tolist(), strict=True)
    for i, (class_id, (x0, y0, x1, y1), area, score) in enumerate(columns):
        annotation = {
            "id": first + i,
            "image_id": image,
            "category_id": class_id + 1,
            "segmentation": {"size": [cells.height, cells.width], "counts": cells.rle[i].decode("ascii")},
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": area,
            "iscrowd": int(cells.state[i] == "ignored"),
        }
        if cells.state[i] != "human":
            annotation["score"] = round(score, SCORE_DIGITS)
        yield annotation


def _name(record: ImageRecord, taken: set[str]) -> str:
    """The name of the record's file, or one made from its id where it has none or another image has that name."""
    name = PurePosixPath(record.source.replace("\\", "/")).name
    extension = split_extension(name)[1] or ".png"
    if not name or name in taken:
        name = f"{record.image_id}{extension}"
    number = 1
    while name in taken:
        number += 1
        name = f"{record.image_id}-{number}{extension}"
    taken.add(name)
    return name


def _line(value: dict[str, object]) -> str:
    return json.dumps(value, allow_nan=False)


def _lines(values: Sequence[str]) -> str:
    return ",\n".join(values)
