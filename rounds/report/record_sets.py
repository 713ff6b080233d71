"""Lists the columns of exported files as Croissant's record sets."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, NamedTuple

INTEGER, NUMBER, TEXT = "sc:Integer", "sc:Float", "sc:Text"


class Column(NamedTuple):
    """A column of a file: its type in Croissant, and what it holds."""

    type: str
    meaning: str


class Table(NamedTuple):
    """A table in a file: `path` leads to its rows in a JSON file, and is empty for a CSV."""

    path: str
    meaning: str
    columns: dict[str, Column]


_BOX = {
    "bbox_x0": Column(INTEGER, "Left edge of the box, in pixels."),
    "bbox_y0": Column(INTEGER, "Upper edge of the box, in pixels."),
    "bbox_x1": Column(INTEGER, "Right edge of the box, in pixels, not in it."),
    "bbox_y1": Column(INTEGER, "Lower edge of the box, in pixels, not in it."),
}
MEASUREMENTS = {
    "image_id": Column(TEXT, "The image that holds the cell."),
    "cell": Column(INTEGER, "Number of the cell in its image, from 1 on."),
    "class": Column(TEXT, "Class of the cell."),
    "score": Column(NUMBER, "What the model believes, from 0 to 1; 1 for a human label."),
    "state": Column(TEXT, "human, predicted, accepted (a pseudo-label) or ignored (too uncertain)."),
    "area_px": Column(INTEGER, "Area in pixels."),
    "perimeter_px": Column(NUMBER, "Perimeter in pixels."),
    "centroid_x": Column(NUMBER, "Mean of the centres of the pixels, in pixels from the left."),
    "centroid_y": Column(NUMBER, "Mean of the centres of the pixels, in pixels from the top."),
    "eccentricity": Column(NUMBER, "Eccentricity of the ellipse with the same moments, from 0 to 1."),
    **_BOX,
}
_COCO_CELLS = {
    "id": Column(INTEGER, "Number of the cell, from 1 on."),
    "image_id": Column(INTEGER, "Number of its image in `images`."),
    "category_id": Column(INTEGER, "Number of its class in `categories`."),
    "segmentation.counts": Column(TEXT, "Mask as COCO's compressed run lengths, column by column."),
    "area": Column(INTEGER, "Area in pixels."),
    "iscrowd": Column(INTEGER, "1 for an ignored cell: neither cell nor background."),
    "score": Column(NUMBER, "What the model believes, from 0 to 1."),
}
_KAGGLE = {
    "id": Column(TEXT, "The image that holds the cell."),
    "predicted": Column(TEXT, "Mask as run lengths: start and length, pixels counted from 1."),
}
# By format: the tables of its file, by name. Formats that are folders of files for other programs have none. Of a JSON
# file there is one: mlcroissant reads all tables of a file as columns of one length.
TABLES: dict[str, dict[str, Table]] = {
    "measurements": {"cells": Table("", "A row for each cell.", MEASUREMENTS)},
    "kaggle": {"cells": Table("", "A row for each cell; an image without cells has one empty row.", _KAGGLE)},
    "kaggle-columns": {"cells": Table("", "A row for each cell; an image without cells has one empty row.", _KAGGLE)},
    "coco": {
        "cells": Table("$.annotations[*]", "A row for each cell; `images` and `categories` name the rest.", _COCO_CELLS)
    },
}


def record_sets(format: str, file: str, scored: bool) -> list[dict[str, Any]]:
    """The record sets of a file of a format; `file` is the identifier of its FileObject.

    `scored`: each cell has a score. In a COCO file human labels have none, so that it is no column of all rows.
    """
    left_out = {"score"} if format == "coco" and not scored else set()
    return [_record_set(name, table, file, left_out) for name, table in TABLES.get(format, {}).items()]


def _record_set(name: str, table: Table, file: str, left_out: Set[str]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": table.meaning,
        "field": [
            _field(name, column, about, table.path, file)
            for column, about in table.columns.items()
            if column not in left_out
        ],
    }


def _field(table: str, column: str, about: Column, path: str, file: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{table}/{column}",
        "name": column,
        "description": about.meaning,
        "dataType": about.type,
        "source": {
            "fileObject": {"@id": file},
            "extract": {"jsonPath": f"{path}.{column}"} if path else {"column": column},
        },
    }
