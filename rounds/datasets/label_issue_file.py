"""Reads the table of label issues that `data.label_issues` names, also after a person took rows out of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cellsemi.configs.errors import DataError
from cellsemi.rounds.evaluation.label_issues import KINDS, Kind
from cellsemi.rounds.formats.shared.csv_file import CsvFile
from cellsemi.rounds.store import files

BOX = ("x0", "y0", "x1", "y1")
COLUMNS = ("image_id", "split", "kind", "cell", *BOX, "rle")  # all that is read; the others are for a person
LEARNT = ("labelled", "val")  # splits whose labels a label issue may change
LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class LabelIssueRow:
    """One row of the table. `place` is the file and the row, for messages; the rest is as in LabelIssue."""

    place: str
    image_id: str
    kind: Kind
    cell: int | None
    bbox: tuple[int, int, int, int]
    rle: bytes | None


def read_table(path: Path) -> list[LabelIssueRow]:
    """The rows of a table of label issues (.csv or .parquet), in its order.

    Columns may be added, moved, or stand as decimals (`4.0`), as programs that edit tables leave them. DataError
    naming file, row and remedy: no such file, a missing column, a value that cannot be, label issues of test images.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; data.label_issues names label_issues.csv or label_issues.parquet of a "
            "`cellsemi data label-issues`"
        )
    rows = {".csv": _csv_rows, ".parquet": _parquet_rows}.get(path.suffix.lower())
    if rows is None:
        raise DataError(f"{path}: expected a .csv or a .parquet file; data.label_issues names one of the two")
    return [_named(values, place) for place, values in rows(path)]


# --- files --------------------------------------------------------------------------------------------

Placed = Iterator[tuple[str, Mapping[str, Any]]]  # (place, values by column)


def _csv_rows(path: Path) -> Placed:
    lines = CsvFile(path, str(path)).records()
    columns = next(lines, (1, 0, []))[2]
    _check_columns(columns, path)
    for line, _, values in lines:
        place = f"{path}, line {line}"
        if len(values) != len(columns):
            raise DataError(f"{place}: {len(values)} values, the header names {len(columns)} columns; mend the line")
        yield place, dict(zip(columns, values, strict=True))


def _parquet_rows(path: Path) -> Placed:
    try:
        with pq.ParquetFile(files.local(path)) as file:
            _check_columns(file.schema_arrow.names, path)
            number = 0
            for batch in file.iter_batches(columns=list(COLUMNS)):
                for values in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", values
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise DataError(f"{path}: not a readable Parquet file ({why}); make the table anew") from None


def _check_columns(columns: list[str], path: Path) -> None:
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; expected the columns that `cellsemi data label-issues` writes, "
            "separated by commas or semicolons in a CSV"
        )
    if len(set(columns)) != len(columns):
        raise DataError(f"{path}: a column name stands twice: {', '.join(columns)}")


# --- rows ---------------------------------------------------------------------------------------------


def _named(values: Mapping[str, Any], place: str) -> LabelIssueRow:
    image_id, split, kind = (str(values[name] if values[name] is not None else "") for name in COLUMNS[:3])
    if not image_id:
        raise DataError(f"{place}: no image_id; take the row out")
    if split == "test":
        raise DataError(
            f"{place}: image {image_id!r} is of test, and labels of test are never altered by what models say; "
            "take the rows of test out"
        )
    if split not in LEARNT:
        raise DataError(f"{place}: split {split!r}, expected {' or '.join(LEARNT)}; take the row out, or put it right")
    if kind not in KINDS:
        raise DataError(
            f"{place}: kind {kind!r}, expected one of {', '.join(KINDS)}; take the row out, or put it right"
        )
    cell = None if _absent(values["cell"]) else _whole(values["cell"], "cell", place)
    if (cell is None) != (kind == "not-drawn"):
        found = "no cell" if cell is None else f"cell {cell}"
        raise DataError(
            f"{place}: {found} in a row of kind {kind!r}; not-drawn has none, all others have one: put the row right"
        )
    x0, y0, x1, y1 = (_whole(values[name], name, place) for name in BOX)
    if x0 >= x1 or y0 >= y1:
        raise DataError(f"{place}: the box {(x0, y0, x1, y1)} (x0, y0, x1, y1) holds no pixel; put the row right")
    rle = None if kind != "not-drawn" or _absent(values["rle"]) else _ascii(values["rle"], place)
    return LabelIssueRow(place, image_id, kind, cell, (x0, y0, x1, y1), rle)


def _absent(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _whole(value: Any, name: str, place: str) -> int:
    """A whole number from 0 on, also where it stands as 4.0."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (0 <= number <= LARGEST and number.is_integer()):
        raise DataError(f"{place}: {name} is {value!r}, expected a whole number from 0 on; put the row right")
    return int(number)


def _ascii(value: Any, place: str) -> bytes:
    try:
        return value.encode("ascii") if isinstance(value, str) else bytes(value)
    except (TypeError, UnicodeEncodeError):
        raise DataError(f"{place}: the rle is no COCO run lengths; empty it, and the box is ignored") from None
