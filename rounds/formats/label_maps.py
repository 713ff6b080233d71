"""A folder of images, a folder of label maps and a manifest: the plainest data set that people have.

    ROOT/manifest.csv     id,split[,class, group, ...]   split: labelled, unlabelled, val, test
    ROOT/images/ID.png    also .tif .tiff .jpg .jpeg
    ROOT/masks/ID.png     0 background, 1..N cells; not needed, and never read, for `unlabelled`

The manifest is checked whole before an image is opened: what is wrong with it stops the run and names the
line. What is wrong with one image or mask is an ImageError, which the caller quarantines.
"""

from __future__ import annotations

import csv
import difflib
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.configs.errors import DataError, ImageError
from cellsemi.configs.schema import DataConfig
from cellsemi.rounds import masks
from cellsemi.rounds.images import EXTENSIONS, decode_image, decode_label_map, pixel_sha256
from cellsemi.rounds.instances import Instances
from cellsemi.rounds.run import SPLITS
from cellsemi.rounds.tables import ImageRecord

Listing = Mapping[str, list[str]]  # file name without extension, composed Unicode -> file names


@dataclass(frozen=True, slots=True)
class Row:
    """One image of the manifest; `line` is its line in the file, counted from 1."""

    image_id: str
    split: str
    line: int
    group: str | None
    cell_type: str | None


class LabelMaps:
    """An opened data set: its rows, and a record or the hidden truth for each.

    Raises DataError, naming file, line and remedy, when the manifest or a folder is missing or wrong.
    """

    def __init__(self, data: DataConfig) -> None:
        if data.root is None:
            raise DataError("data.root is missing: `--set data.root=FOLDER` names the folder of the data set")
        self._data = data
        self._root = Path(data.root)
        if not self._root.is_dir():
            raise DataError(f"{self._root}: no such folder; `--set data.root=FOLDER` names the data set")
        self.rows = read_manifest(self._root / data.manifest, data)
        self._images = _listing(self._root / data.images, "data.images")
        annotated = any(row.split != "unlabelled" for row in self.rows)
        self._masks = _listing(self._root / data.masks, "data.masks") if annotated else {}

    def read(self, row: Row) -> ImageRecord:
        """The record of a row, its bytes as they came; cells for all but `unlabelled`.

        Raises ImageError when the image or its label map is missing, unreadable or does not fit.
        """
        path = self._find(self._data.images, self._images, row.image_id, alone=True)
        content = _read_bytes(self._root, path)
        image = decode_image(content, path, self._data.max_pixels)
        height, width = image.shape[:2]
        cells = None if row.split == "unlabelled" else self._read_cells(row, height, width)
        return ImageRecord(
            image_id=row.image_id,
            height=height,
            width=width,
            split=row.split,
            image=content,
            source=path,
            group=row.group,
            cell_type=row.cell_type,
            sha256=pixel_sha256(image),
            instances=cells,
        )

    def read_hidden_truth(self, record: ImageRecord) -> Instances:
        """The cells of an unlabelled image, for benchmarks only: no stage of a round may call this.

        Raises ImageError as `read` does for annotated images, and when there is no mask after all.
        """
        row = Row(record.image_id, record.split, 0, record.group, record.cell_type)
        if not self._masks:
            self._masks = _listing(self._root / self._data.masks, "data.masks")
        return self._read_cells(row, record.height, record.width)

    def _read_cells(self, row: Row, height: int, width: int) -> Instances:
        path = self._find(self._data.masks, self._masks, row.image_id, alone=False)
        labels = decode_label_map(_read_bytes(self._root, path), path, self._data.max_pixels)
        if labels.shape != (height, width):
            found = f"{labels.shape[1]}x{labels.shape[0]}"
            raise ImageError(path, f"the label map is {found}, the image {width}x{height}", "export it anew")
        _check_not_binary(labels, path)
        class_id = 0 if row.cell_type is None else self._data.classes.index(row.cell_type)
        return masks.from_label_map(labels, class_id=class_id, state="human")

    def _find(self, folder: str, listing: Listing, image_id: str, alone: bool) -> str:
        """The path below the root of the one file for an id.

        An id may carry the extension of its image; its mask may then have another (`alone` is False).
        """
        name = unicodedata.normalize("NFC", image_id)
        found = list(listing.get(name, ()))
        stem, extension = _split_extension(name)
        if extension:
            same = listing.get(stem, [])
            found += [f for f in same if not alone or _split_extension(f)[1] == extension]
        if not found:
            hint = f"expected one of {', '.join(EXTENSIONS)} after the id, or take the row out"
            raise ImageError(f"{folder}/{image_id}", "there is no such file", hint)
        if len(found) > 1:
            raise ImageError(f"{folder}/{image_id}", f"several files fit: {', '.join(found)}", "keep one")
        return f"{folder}/{found[0]}"


def read_manifest(path: Path, data: DataConfig) -> list[Row]:
    """The rows of a manifest that `data.where` selects, checked, in the order of the file.

    Raises DataError naming the file, the line and what to do: a missing file or column, an unknown split or
    class, an id that is empty, doubled, or would leave its folder, rows of the wrong length, no rows.
    """
    lines = _lines(path)
    columns = next(lines, (1, []))[1]
    _check_columns(columns, path, data)
    rows: list[Row] = []
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


def _check_columns(columns: list[str], path: Path, data: DataConfig) -> None:
    if len(set(columns)) != len(columns):
        raise DataError(f"{path}, line 1: a column name stands twice: {', '.join(columns)}")
    asked = {"id": "", "split": ""}
    asked |= {column: "data.class_column" for column in [data.class_column] if column}
    asked |= {column: "data.group_column" for column in [data.group_column] if column}
    asked |= dict.fromkeys(data.where, "data.where")
    for column, setting in asked.items():
        if column not in columns:
            because = f", which {setting} names" if setting else ""
            raise DataError(f"{path}: no column {column!r}{because}; it has: {', '.join(columns) or 'nothing'}")


def _row(fields: Mapping[str, str], place: str, line: int, data: DataConfig) -> Row:
    image_id, split = fields["id"], fields["split"]
    _check_id(image_id, place)
    if split not in SPLITS:
        near = difflib.get_close_matches(split, SPLITS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{place}: split {split!r}, expected one of {', '.join(SPLITS)}{hint}")
    cell_type = fields[data.class_column] or None if data.class_column else None
    if cell_type is not None and cell_type not in data.classes:
        raise DataError(f"{place}: class {cell_type!r}, expected one of {', '.join(data.classes)} (data.classes)")
    if cell_type is None and split != "unlabelled" and len(data.classes) > 1:
        raise DataError(f"{place}: no class in {data.class_column!r}, expected one of {', '.join(data.classes)}")
    group = fields[data.group_column] or None if data.group_column else None
    return Row(image_id, split, line, group, cell_type)


def _check_id(image_id: str, place: str) -> None:
    """An id is a file name: it must not lead out of its folder."""
    if not image_id.strip():
        raise DataError(f"{place}: the id is empty; it is the name of the image's file without extension")
    for forbidden in ("/", "\\", "..", "\0"):
        if forbidden in image_id:
            raise DataError(f"{place}: id {image_id!r} holds {forbidden!r}; an id is a plain file name")


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, values) of every record that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            line = 1
            for values in reader:
                if values:
                    yield line, values
                line = reader.line_num + 1
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; data.manifest names the CSV below data.root") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


# --- files ----------------------------------------------------------------------------------------------


def _listing(folder: Path, setting: str) -> Listing:
    """The image files of a folder; a list instead of patterns, since ids may hold `[` and `*`.

    Names are composed (NFC): some systems store `é` as two characters, manifests rarely do.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder}: no such folder; {setting} names it below data.root") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        stem, extension = _split_extension(name)
        if extension:
            found[unicodedata.normalize("NFC", stem)].append(name)
    return found


def _split_extension(name: str) -> tuple[str, str]:
    """("a.b", ".png") of "a.b.PNG"; no extension when it is not that of an image."""
    stem, dot, extension = name.rpartition(".")
    lower = f".{extension.lower()}"
    return (stem, lower) if dot and lower in EXTENSIONS else (name, "")


def _read_bytes(root: Path, path: str) -> bytes:
    try:
        return (root / path).read_bytes()
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror})", "check the file and its permissions") from None


def _check_not_binary(labels: NDArray[np.int32], path: str) -> None:
    """ImageError for a mask of foreground (0 and 255): as a label map it would be one cell in many pieces."""
    top = int(labels.max())
    if top in (255, 65535) and not ((labels != 0) & (labels != top)).any():
        pieces = int(ndimage.label(labels)[1])
        if pieces > 1:
            raise ImageError(
                path,
                f"only 0 and {top}, in {pieces} pieces: a mask of foreground, not a label map",
                "number the cells 1..N, for instance with scipy.ndimage.label",
            )
