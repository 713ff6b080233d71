"""Reads a folder of images, a folder of label maps and a manifest, the plainest data set that people have.

    ROOT/manifest.csv     id,split[,class, group, ...]   split: labelled, unlabelled, val, test
                          separated by commas, semicolons or tabs
    ROOT/images/ID.png    also .tif .tiff .jpg .jpeg
    ROOT/masks/ID.png     0 background, 1..N cells; not needed, and never read, for `unlabelled`

The manifest is checked whole before an image is opened: what is wrong with it stops the run and names the
line. What is wrong with one image or mask is an ImageError, which the caller quarantines.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import cast

from cellsemi.configs.data import DataConfig, Split
from cellsemi.configs.errors import DataError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.base import NOTHING, Item, Loaded, Part, root_of
from cellsemi.rounds.formats.label_map.label_map import LabelMapRules, cells_of_label_map
from cellsemi.rounds.formats.shared.csv_file import delimiter_of, stripped
from cellsemi.rounds.formats.shared.folder import Folder, check_id, searched
from cellsemi.rounds.store.run import SPLITS
from cellsemi.rounds.store.schemas import ImageRecord

NEEDED = ("id", "split")  # columns


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One image of the manifest; `line` is its line in the file, counted from 1."""

    image_id: str
    split: Split
    line: int
    group: str | None
    cell_type: str | None


class LabelMaps:
    """An opened data set: its rows, and a record or the hidden truth for each.

    Raises DataError, naming file, line and remedy, when the manifest or a folder is missing or wrong.
    """

    notes: tuple[str, ...] = ()
    left_out = NOTHING

    def __init__(self, data: DataConfig) -> None:
        root = root_of(data)
        self._data = data
        self.rows = read_manifest(root / data.manifest, data)
        self.classes = tuple(sorted({row.cell_type for row in self.rows if row.cell_type}))
        self._images = Folder(root, str(data.images), "data.images")
        self._masks: Folder | None = None
        if any(row.split != "unlabelled" for row in self.rows):
            self._masks = self._open_masks()

    def _open_masks(self) -> Folder:
        return Folder(root_of(self._data), str(self._data.masks), "data.masks")

    def files(self) -> dict[str, str]:
        """The manifest, the images of its rows and their masks; those of unlabelled images are never read."""
        found = {self._data.manifest: ""}
        for row in self.rows:
            found |= dict.fromkeys(self._images.all_of_id(row.image_id), "")
            if self._masks is not None:
                why = "masks of unlabelled images, never read" if row.split == "unlabelled" else ""
                found |= dict.fromkeys(self._masks.all_of_id(row.image_id, alone=False), why)
        return found

    def items(self) -> Iterator[Item]:
        """Every row of the manifest, in its order."""
        for row in self.rows:
            place = f"{self._data.manifest}, line {row.line}"
            cell_type = row.cell_type or searched(self._data.class_pattern, row.image_id)
            group = row.group or searched(self._data.group_pattern, row.image_id)
            yield Item(row.image_id, row.split, place, partial(self.load, row), cell_type, group)

    def load(self, row: ManifestRow) -> Loaded:
        """The record of a row, its bytes as they came; cells for all but `unlabelled`.

        Raises ImageError when the image or its label map is missing, unreadable or does not fit.
        """
        path = self._images.find_id(row.image_id)
        record = self._images.record(path, row.image_id, self._data)
        return Loaded(record if row.split == "unlabelled" else record.with_(instances=self._cells(record)))

    def read_hidden_truth(self, record: ImageRecord) -> Instances:
        """The cells of an unlabelled image, for benchmarks only: no stage of a round may call this.

        Raises ImageError as `load` does for annotated images, and when there is no mask after all.
        """
        self._masks = self._masks or self._open_masks()
        return self._cells(record)

    def _cells(self, record: ImageRecord) -> Instances:
        assert self._masks is not None
        path = self._masks.find_id(record.image_id, alone=False)
        rules = LabelMapRules.of(self._data)
        return cells_of_label_map(self._masks.read(path), path, record, self._data.max_pixels, rules)


def open_part(part: Part) -> LabelMaps:
    """The whole data set: its manifest says the splits."""
    return LabelMaps(part.data)


def read_manifest(path: Path, data: DataConfig) -> list[ManifestRow]:
    """The rows of a manifest that `data.where` selects, checked, in the order of the file.

    Raises DataError naming the file, the line and what to do: a missing file or column, an unknown split or
    class, an id that is empty, doubled, or would leave its folder, rows of the wrong length, no rows.
    """
    lines = _lines(path)
    columns = manifest_columns(next(lines, (1, []))[1])
    _check_columns(columns, path, data)
    rows: list[ManifestRow] = []
    seen: dict[str, int] = {}
    filtered = 0
    for line, values in lines:
        if len(values) != len(columns):
            raise DataError(f"{path}, line {line}: {len(values)} values, expected {len(columns)}: {values}")
        fields = dict(zip(columns, values, strict=True))
        if any(fields[column] != value for column, value in data.where.items()):
            filtered += 1
            continue
        rows.append(_row(fields, f"{path}, line {line}", line, data))
        first = seen.setdefault(rows[-1].image_id, line)
        if first != line:
            raise DataError(f"{path}: id {rows[-1].image_id!r} stands in line {first} and in line {line}")
    if not rows and filtered:
        raise DataError(f"{path}: none of the {filtered} rows has {data.where}; check data.where")
    if not rows:
        raise DataError(f"{path}: there are no rows; list each image as a line with its id and split")
    return rows


def manifest_columns(names: Sequence[str]) -> list[str]:
    """The columns of a manifest, `ID` and `Split` spelt as `id` and `split`."""
    return [name.lower() if name.lower() in NEEDED else name for name in names]


def _check_columns(columns: list[str], path: Path, data: DataConfig) -> None:
    if len(set(columns)) != len(columns):
        raise DataError(f"{path}, line 1: a column name stands twice: {', '.join(columns)}")
    asked = dict.fromkeys(NEEDED, "")
    asked |= {column: "data.class_column" for column in [data.class_column] if column}
    asked |= {column: "data.group_column" for column in [data.group_column] if column}
    asked |= dict.fromkeys(data.where, "data.where")
    for column, setting in asked.items():
        if column not in columns:
            because = f", which {setting} names" if setting else ""
            raise DataError(f"{path}: no column {column!r}{because}; it has: {', '.join(columns) or 'nothing'}")


def _row(fields: Mapping[str, str], place: str, line: int, data: DataConfig) -> ManifestRow:
    image_id, split = fields["id"], fields["split"]
    check_id(image_id, place)
    if split not in SPLITS:
        near = difflib.get_close_matches(split, SPLITS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{place}: split {split!r}, expected one of {', '.join(SPLITS)}{hint}")
    cell_type = fields[data.class_column] or None if data.class_column else None
    if cell_type is None and split != "unlabelled" and len(data.classes) > 1 and not data.class_pattern:
        raise DataError(f"{place}: no class in {data.class_column!r}, expected one of {', '.join(data.classes)}")
    group = fields[data.group_column] or None if data.group_column else None
    return ManifestRow(image_id, cast(Split, split), line, group, cell_type)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, values) of every record that is not blank."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        delimiter = delimiter_of(text.partition("\n")[0])
        reader = csv.reader(StringIO(text, newline=""), strict=True, delimiter=delimiter, skipinitialspace=True)
        line = 1
        for values in reader:
            if values:
                yield line, stripped(values)
            line = reader.line_num + 1
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; data.manifest names the CSV below data.root") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
