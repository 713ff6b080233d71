"""Indexes the rows of a CSV of run lengths: checks them once, and finds them again by their place in the file.

The index keeps of each row its byte offset and its line, so that a file of any size can be opened.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError
from cellsemi.rounds.formats.shared.csv_file import CsvFile
from cellsemi.rounds.formats.shared.folder import check_id

ID_COLUMNS = ("id", "ImageId", "image_id")


RLE_COLUMNS = ("annotation", "EncodedPixels", "predicted", "rle")


MAX_SIZE_DIGITS = 9


MAX_ID_LENGTH = 255  # of a file name


SHOWN_CHARACTERS = 200  # characters of a value or a header that a message shows


@dataclass(frozen=True, slots=True)
class Columns:
    """Where in a row the values stand; None for what the file does not have."""

    count: int
    image: int
    rle: int
    size: tuple[int, int] | None  # of height and width
    cell_class: int | None
    group: int | None


@dataclass(slots=True)
class ImageRows:
    """The rows of one image: the byte offset and the line of each, and what all of them say."""

    image_id: str
    size: tuple[int, int] | None  # height, width
    cell_class: str
    group: str
    empty: bool  # the one row says that there is no cell
    mixed: bool = False  # the rows state different classes
    offsets: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))


def index(file: CsvFile, data: DataConfig) -> tuple[Columns, list[ImageRows], tuple[str, ...]]:
    """The columns of a file, its images in the order of their first rows, and the class names, sorted.

    Raises DataError: missing or doubled columns, rows of the wrong length, ids that are no file names, sizes
    that are no whole numbers, rows of one image that contradict each other, no rows.
    """
    records = file.records()
    columns = find_columns(next(records, (1, 0, []))[2], file.name, data)
    entries: dict[str, ImageRows] = {}
    names: set[str] = set()
    for line, offset, values in records:
        entry = _entry(values, columns, f"{file.name}, line {line}")
        first = entries.setdefault(entry.image_id, entry)
        if first is not entry:
            _agree(first, entry, line, file.name, data)
        first.offsets.append(offset)
        first.lines.append(line)
        names |= {entry.cell_class} - {""}
    if not entries:
        raise DataError(f"{file.name}: there are no rows; list each cell as a line, and each image without cells")
    return columns, list(entries.values()), tuple(sorted(names))


def find_columns(names: list[str], name: str, data: DataConfig) -> Columns:
    """What the columns of a header are; DataError when one is missing, doubled or stated in two ways."""
    if len(set(names)) != len(names):
        raise DataError(f"{name}, line 1: a column name stands twice: {', '.join(names)[:SHOWN_CHARACTERS]}")
    has = f"it has: {', '.join(names)[:SHOWN_CHARACTERS] or 'nothing'}"

    def one_of(known: tuple[str, ...], what: str) -> int:
        found = [column for column in known if column in names]
        if len(found) != 1:
            count = "more than one" if found else "no"
            raise DataError(f"{name}, line 1: {count} column for {what}, expected one of {', '.join(known)}; {has}")
        return names.index(found[0])

    def asked(column: str | None, setting: str, usual: str) -> int | None:
        if column is not None and column not in names:
            raise DataError(f"{name}, line 1: no column {column!r}, which {setting} names; {has}")
        column = column or usual
        return names.index(column) if column in names else None

    image, rle = one_of(ID_COLUMNS, "the image"), one_of(RLE_COLUMNS, "the run lengths")
    sizes = [column in names for column in ("height", "width")]
    if any(sizes) and not all(sizes):
        raise DataError(f"{name}, line 1: one of the columns width and height without the other; {has}")
    return Columns(
        count=len(names),
        image=image,
        rle=rle,
        size=(names.index("height"), names.index("width")) if all(sizes) else None,
        cell_class=asked(data.class_column, "data.class_column", "cell_type"),
        group=asked(data.group_column, "data.group_column", "sample_id"),
    )


def _entry(values: list[str], columns: Columns, place: str) -> ImageRows:
    if len(values) != columns.count:
        raise DataError(f"{place}: {len(values)} values, expected {columns.count}; is the file cut off?")
    image_id = values[columns.image]
    if len(image_id) > MAX_ID_LENGTH:
        raise DataError(f"{place}: the id has {len(image_id):,} characters; it is the name of the image's file")
    check_id(image_id, place)
    size = None
    if columns.size:
        height, width = (values[column] for column in columns.size)
        size = _pixels(height, "height", place), _pixels(width, "width", place)
    return ImageRows(
        image_id=image_id,
        size=size,
        cell_class="" if columns.cell_class is None else values[columns.cell_class],
        group="" if columns.group is None else values[columns.group],
        empty=not values[columns.rle].strip(" "),
    )


def _pixels(text: str, what: str, place: str) -> int:
    fits = text.isascii() and text.isdigit() and len(text) <= MAX_SIZE_DIGITS
    if not fits or int(text) < 1:
        raise DataError(f"{place}: the {what} is {text[:SHOWN_CHARACTERS]!r}, expected a whole number of pixels")
    return int(text)


def _agree(first: ImageRows, entry: ImageRows, line: int, name: str, data: DataConfig) -> None:
    """DataError, naming both lines, unless a further row fits the first one of its image; notes its class."""
    both = f"{name}, lines {first.lines[0]} and {line}: image {entry.image_id!r} has"
    if first.empty or entry.empty:
        raise DataError(f"{both} a row without run lengths beside another; it means that there is no cell: keep one")
    if first.size != entry.size:
        raise DataError(f"{both} two sizes (height, width), {first.size} and {entry.size}; correct one")
    if first.group != entry.group:
        raise DataError(
            f"{both} two groups, {first.group[:SHOWN_CHARACTERS]!r} and {entry.group[:SHOWN_CHARACTERS]!r}; "
            "an image stands in one"
        )
    if first.cell_class == entry.cell_class:
        return
    stated = f"{first.cell_class[:SHOWN_CHARACTERS]!r} and {entry.cell_class[:SHOWN_CHARACTERS]!r}"
    if not (first.cell_class and entry.cell_class):
        raise DataError(f"{both} the classes {stated}; give every row its class, or none")
    if data.one_class_per_image:
        raise DataError(f"{both} the classes {stated}, and data.one_class_per_image is set; take one of both out")
    first.mixed = True
