"""Defines every Arrow schema of cellsemi, with its version. Nothing else defines a column.

An image shard row is one image: its encoded bytes as they came, what is known about it, and its cells
as a list of structs. Predictions, pseudo-labels and training sets are the same table with other cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cellsemi.configs.errors import RunError
from cellsemi.rounds.cells.instances import COLUMNS, NUMERIC, Instances

SCHEMA_VERSION = 4
VERSION_KEY = b"cellsemi.schema_version"
CONFIG_KEY = b"cellsemi.config_hash"

CELL = pa.struct(
    [
        ("class_id", pa.int32()),
        ("score", pa.float32()),
        ("quality", pa.float32()),
        ("weight", pa.float32()),
        ("area", pa.int64()),
        ("votes", pa.int32()),
        ("agreement", pa.float32()),
        ("round", pa.int32()),
        ("bbox", pa.list_(pa.int32(), 4)),
        ("rle", pa.binary()),
        ("state", pa.string()),
        ("reason", pa.string()),
    ]
)

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.binary()),  # encoded bytes as they came; null in predictions
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("source", pa.string()),  # path or origin
        ("group", pa.string()),  # plate, well, sample; null when unknown
        ("cell_type", pa.string()),  # class of the whole image; null when unknown
        ("split", pa.string()),
        ("sha256", pa.string()),  # of the decoded pixels
        ("dtype", pa.string()),  # of the decoded pixels
        ("low", pa.float64()),  # grey values that networks see as 0 and 1: percentiles of this image
        ("high", pa.float64()),
        ("instances", pa.list_(CELL)),  # null: never annotated; empty: annotated, no cells
        ("background", pa.binary()),  # RLE of where the models are sure that there is nothing; null: see Instances
    ]
)

QUARANTINE = pa.schema(
    [("image_id", pa.string()), ("split", pa.string()), ("path", pa.string()), ("problem", pa.string())]
)

# The images that are to be read, in the order of their shards (datasets.read_shards).
LISTED = pa.schema(
    [
        ("shard", pa.int32()),  # its number in its split
        *[(name, pa.string()) for name in ("image_id", "split", "place", "cell_type", "group")],  # as listed
        ("path", pa.string()),  # of an image of data.images.unlabelled below the data's root; null for all others
        ("hidden", pa.bool_()),  # an annotated image that data.labelled_limit made unlabelled
    ]
)

LEFT_OUT = pa.schema([("image_id", pa.string()), ("reason", pa.string())])  # unlabelled images that do not teach

# The matches of one image: of all classes, or (with a name) of one. `tp` has ten counts, IoU > .50 ... > .95.
TALLY = [("ap", pa.float64()), ("n_truth", pa.int32()), ("n_predicted", pa.int32())]
TALLY += [("tp", pa.list_(pa.int32(), 10)), ("mean_iou", pa.float64())]

CUTOFFS = pa.list_(pa.struct([("class", pa.string()), ("min_score", pa.float64()), ("min_area_px", pa.int64())]))

EVALUATION = pa.schema(
    [
        ("round", pa.int32()),
        ("model", pa.string()),
        ("split", pa.string()),
        ("image_id", pa.string()),
        ("cutoffs", CUTOFFS),  # from which score and area on predictions of each class count, chosen on val
        ("coco_map", pa.float64()),  # of all images of the split together; null: not asked for
        ("coco_map50", pa.float64()),
        *TALLY,
        ("classes", pa.list_(pa.struct([("class", pa.string()), *TALLY]))),  # those the image holds
    ]
)

# Human labels to check again (evaluation.label_issues.LabelIssue), the surest first.
LABEL_ISSUES = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),  # of the image, in the run that judged it
        ("kind", pa.string()),  # one of evaluation.label_issues.KINDS
        ("cell", pa.int32()),  # index of the human cell in its image; null: nobody drew one
        *[(name, pa.int32()) for name in ("x0", "y0", "x1", "y1")],  # its box, else that of the prediction; half-open
        ("drawn_class", pa.string()),  # null: nobody drew one
        ("seen_class", pa.string()),  # null: no model sees one
        ("iou", pa.float64()),
        ("confidence", pa.float64()),
        ("reason", pa.string()),
        ("sheet", pa.string()),  # the picture that shows it
        ("rle", pa.string()),  # mask that the models see where nobody drew one (COCO run lengths); null elsewhere
    ]
)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One row of an image shard. `image` holds the encoded bytes, or None where the table has none."""

    image_id: str
    height: int
    width: int
    split: str
    image: bytes | None = None
    source: str = ""
    group: str | None = None
    cell_type: str | None = None
    sha256: str = ""
    dtype: str = ""
    low: float | None = None
    high: float | None = None
    instances: Instances | None = None

    def with_(self, **changes: Any) -> ImageRecord:
        """A copy with some fields replaced."""
        return replace(self, **changes)


def to_row(record: ImageRecord) -> dict[str, object]:
    """The Arrow row (plain Python values) of a record."""
    return {
        "image_id": record.image_id,
        "image": record.image,
        "height": record.height,
        "width": record.width,
        "source": record.source,
        "group": record.group,
        "cell_type": record.cell_type,
        "split": record.split,
        "sha256": record.sha256,
        "dtype": record.dtype,
        "low": record.low,
        "high": record.high,
        "instances": None if record.instances is None else _cells(record.instances),
        "background": None if record.instances is None else record.instances.background,
    }


def from_row(row: Mapping[str, Any]) -> ImageRecord:
    """The record of an Arrow row."""
    values = dict(row)
    cells, background = values.pop("instances"), values.pop("background")
    height, width = values["height"], values["width"]
    return ImageRecord(**values, instances=None if cells is None else _instances(cells, height, width, background))


def to_table(records: list[ImageRecord], config_hash: str) -> pa.Table:
    """An IMAGES table with the schema version and the config hash in its metadata."""
    return pa.Table.from_pylist([to_row(record) for record in records], schema=versioned(IMAGES, config_hash))


def versioned(schema: pa.Schema, config_hash: str) -> pa.Schema:
    """The schema with its version and the config hash in its metadata."""
    return schema.with_metadata({VERSION_KEY: str(SCHEMA_VERSION).encode(), CONFIG_KEY: config_hash.encode()})


def check_version(schema: pa.Schema, path: str) -> None:
    """RunError unless the file was written with this schema version."""
    found = (schema.metadata or {}).get(VERSION_KEY, b"none").decode()
    if found != str(SCHEMA_VERSION):
        raise RunError(f"{path}: schema version {found}, this cellsemi reads {SCHEMA_VERSION}; make the run anew")


def _cells(cells: Instances) -> list[dict[str, object]]:
    columns: dict[str, list[Any]] = {name: getattr(cells, name).tolist() for name in (*NUMERIC, "bbox")}
    columns |= {name: list(getattr(cells, name)) for name in ("rle", "state", "reason")}
    return [{name: columns[name][i] for name in COLUMNS} for i in range(len(cells))]


def _instances(cells: Sequence[Mapping[str, Any]], height: int, width: int, background: bytes | None) -> Instances:
    arrays: dict[str, NDArray[Any]] = {
        name: np.array([cell[name] for cell in cells], dtype=dtype) for name, dtype in NUMERIC.items()
    }
    return Instances(
        height=height,
        width=width,
        bbox=np.array([cell["bbox"] for cell in cells], dtype=np.int32).reshape(-1, 4),
        rle=tuple(cell["rle"] for cell in cells),
        state=tuple(cell["state"] for cell in cells),
        reason=tuple(cell["reason"] for cell in cells),
        background=background,
        **arrays,
    )
