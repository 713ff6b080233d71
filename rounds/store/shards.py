"""Writes and reads Parquet image shards, row by row, without holding a data set in memory."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cellsemi.configs.errors import RunError
from cellsemi.rounds import pulse
from cellsemi.rounds.store import files
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.schemas import IMAGES, ImageRecord, check_version, from_row, to_table, versioned
from cellsemi.rounds.store.unaltered import SHARDS, check_footer, check_output, check_shard, footer_sha256, remedy

ROWS_PER_GROUP = 4  # read together when one record is asked for; fewer make the columns of a shard slow to read
SHARDS_PER_WORKER = 8  # so that the last shard of a folder keeps the others waiting for a small part of the time
MOST_IMAGES = 256  # of a shard whose size nobody states: what is lost in a crash, and held in memory, stays bounded
OPEN_SHARDS = 64  # that a set of shards keeps open: a process may hold 1,024 files, and each has its footer in memory
DIGITS = 5  # of the number in the name of a shard; more where it needs more


def part_name(index: int) -> str:
    """File name of shard `index`: names sort as their numbers do, at any count, since a letter counts further digits.

    >>> part_name(7), part_name(99_999), part_name(100_000), part_name(1_000_000)
    ('part-00007.parquet', 'part-99999.parquet', 'part-a100000.parquet', 'part-b1000000.parquet')
    """
    number = f"{index:0{DIGITS}d}"
    more = len(number) - DIGITS
    return f"part-{'abcdefgh'[more - 1] if more else ''}{number}.parquet"


class Shard(OnDisk):
    """A shard that is written: its file's name, hex sha256, images and cells.

    `footer_sha256` is that of the part of the file that says where all else lies (`unaltered.check_footer`).
    """

    file: str
    rows: int
    cells: int
    sha256: str
    footer_sha256: str = ""


def write_shard(path: Path, records: Sequence[ImageRecord], config_hash: str) -> Shard:
    """Write one shard atomically.

    The same records give the same bytes.
    """
    buffer = BytesIO()
    pq.write_table(
        to_table(list(records), config_hash),
        buffer,
        row_group_size=ROWS_PER_GROUP,
        compression="zstd",
        write_page_checksum=True,
    )
    content = buffer.getvalue()
    files.write_bytes(path, content)
    return Shard(
        file=path.name,
        rows=len(records),
        cells=sum(len(record.instances) for record in records if record.instances is not None),
        sha256=files.sha256_bytes(content),
        footer_sha256=footer_sha256(buffer),
    )


def images_per_shard(stated: int | Literal["auto"], images: int, workers: int) -> int:
    """How many images each shard of a folder of `images` holds: as many as stated, or what suits so many workers.

    >>> images_per_shard("auto", 2000, 64), images_per_shard("auto", 5, 2), images_per_shard(16, 5, 2)
    (3, 1, 16)
    """
    if stated != "auto":
        return stated
    return min(max(images // (SHARDS_PER_WORKER * workers), 1), MOST_IMAGES)


def write_folder(
    folder: Path,
    records: Iterable[ImageRecord],
    shard_images: int,
    config_hash: str,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> list[Shard]:
    """Write a stream of records as shards of `shard_images` rows.

    One shard is in memory at a time; `on_rows` is called with the rows written so far.
    """
    written: list[Shard] = []
    stream = iter(records)
    while chunk := list(islice(stream, shard_images)):
        written.append(write_shard(folder / part_name(len(written)), chunk, config_hash))
        on_rows(sum(shard.rows for shard in written))
    return written


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a folder, in order."""
    return sorted(folder.glob(SHARDS))


def read_shard(path: Path, images: bool = True) -> Iterator[ImageRecord]:
    """The records of one shard, a row group in memory at a time; without `images` these are left where they are."""
    with _open(path) as file:
        wanted = None if images else [name for name in IMAGES.names if name != "image"]
        for group in range(file.num_row_groups):
            yield from _records(path, file, group, wanted)


def read_folder(folder: Path) -> Iterator[ImageRecord]:
    """The records of all shards of a folder, in order."""
    for path in shard_paths(folder):
        yield from read_shard(path)


def read_columns(folder: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of all rows of a folder as plain dicts (without the images it is small)."""
    return [row for table in iter_columns(folder, columns) for row in table.to_pylist()]


def iter_columns(folder: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Some columns of a folder, dotted where they lie in another, a table for each shard in order."""
    return (columns_of(path, columns) for path in shard_paths(folder))


def columns_of(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a shard, dotted where they lie in another."""
    with _open(path) as file, _readable(path):
        return file.read(columns=list(columns))


def peek_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """The same without reading the rest of the file: what is read is compared with its checksums (`check_footer`)."""
    with open_parts(path) as file, _readable(path):
        return file.read(columns=list(columns))


def write_rows(path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema, config_hash: str) -> None:
    """Write a small table (evaluation, leaderboard) atomically, with its version; same rows, same bytes."""
    buffer = BytesIO()
    table = pa.Table.from_pylist(list(rows), schema=versioned(schema, config_hash))
    pq.write_table(table, buffer, compression="zstd")
    files.write_bytes(path, buffer.getvalue())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a small table as plain dicts, Arrow maps as dicts too; RunError as for a shard."""
    check_output(path)
    with _open(path) as file, _readable(path):
        rows: list[dict[str, Any]] = file.read().to_pylist(maps_as_pydicts="strict")
    return rows


class ShardSet(Sequence[ImageRecord]):
    """Random access to the records of some shards: the rows of one group are read for one record.

    With `images`, one for each shard, the encoded image of a record is that of the row of its id there: labels and
    images lie apart. Whoever wants records again keeps them. OPEN_SHARDS files stay open, those that were used last; a
    copy in another process opens its own. What is read is compared with its checksums, and no file is read for it
    whole. With `rows`, how many each shard has, none is opened before a record of it is wanted.
    """

    def __init__(self, paths: Sequence[Path], images: Sequence[Path] = (), rows: Sequence[int] | None = None) -> None:
        if images and len(images) != len(paths):
            raise ValueError(f"expected a shard of images for each of {len(paths)} shards, got {len(images)}")
        self._paths, self._images = list(paths), list(images)
        self._rows = [count_rows_unread(path) for path in paths] if rows is None else list(rows)
        self._upto = np.cumsum([0, *self._rows])
        self._opened: OrderedDict[Path, _OpenShard] = OrderedDict()

    def __len__(self) -> int:
        return int(self._upto[-1])

    @property
    def starts(self) -> list[int]:
        """The number of the first row of each shard."""
        found: list[int] = self._upto[:-1].tolist()
        return found

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"expected a row of {len(self)}, got {index}")
        index %= len(self)
        shard = int(np.searchsorted(self._upto, index, side="right")) - 1
        record = from_row(self._open(self._paths[shard]).row(index - int(self._upto[shard])))
        if not self._images or record.image is not None:
            return record
        return record.with_(image=self._open(self._images[shard]).image_of(record))

    def _open(self, path: Path) -> _OpenShard:
        found = self._opened.pop(path, None) or _OpenShard(path)
        self._opened[path] = found
        while len(self._opened) > OPEN_SHARDS:
            self._opened.popitem(last=False)[1].close()
        return found

    def __reduce__(self) -> tuple[type[ShardSet], tuple[list[Path], list[Path], list[int]]]:
        return ShardSet, (self._paths, self._images, self._rows)


class _OpenShard:
    """An open shard, and where each of its rows lies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_parts(path)
        sizes = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._upto = np.cumsum([0, *sizes])
        self._ids: dict[str, int] | None = None

    def row(self, number: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """A row as plain values."""
        if not 0 <= number < self._upto[-1]:
            raise RunError(f"{self._path}: expected a row {number}, it has {self._upto[-1]}. {remedy(self._path)}")
        group = int(np.searchsorted(self._upto, number, side="right")) - 1
        with _readable(self._path):
            table = self._file.read_row_group(group, columns=columns)
            (found,) = table.slice(number - int(self._upto[group]), 1).to_pylist()
        row: dict[str, Any] = found
        return row

    def image_of(self, record: ImageRecord) -> bytes:
        """The encoded image of a record that stands here, too; RunError when it does not."""
        if self._ids is None:
            with _readable(self._path):
                ids = self._file.read(columns=["image_id"])["image_id"].to_pylist()
            self._ids = {image_id: number for number, image_id in enumerate(ids)}
        number = self._ids.get(record.image_id)
        found = None if number is None else self.row(number, ["image", "sha256"])
        if found is None or found["image"] is None or found["sha256"] != record.sha256:
            raise RunError(f"{self._path}: does not hold the image {record.image_id!r}. {remedy(self._path)}")
        image: bytes = found["image"]
        return image

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def count_rows_unread(path: Path) -> int:
    """How many rows a shard has, by its footer alone."""
    with open_parts(path) as file:
        return int(file.metadata.num_rows)


def count_rows(path: Path) -> int:
    """How many rows a table or a shard has; RunError as for a shard."""
    with _open(path) as file:
        return int(file.metadata.num_rows)


def _open(path: Path) -> pq.ParquetFile:
    """A table of this version; RunError when it is missing, altered since its step wrote it, or damaged."""
    if not path.is_file():
        raise RunError(f"{path}: missing. {remedy(path)}")
    check_shard(path)
    with _readable(path):
        file = pq.ParquetFile(files.local(path))
    check_version(file.schema_arrow, str(path))
    return file


def open_parts(path: Path) -> pq.ParquetFile:
    """A shard of which parts are to be read, each compared with its checksum; RunError as for a whole one."""
    if not path.is_file():
        raise RunError(f"{path}: missing. {remedy(path)}")
    with _readable(path):
        check_footer(path)
        file = pq.ParquetFile(files.local(path), page_checksum_verification=True)
    check_version(file.schema_arrow, str(path))
    return file


def _records(path: Path, file: pq.ParquetFile, group: int, columns: Sequence[str] | None) -> Iterator[ImageRecord]:
    with _readable(path):
        rows = file.read_row_group(group, columns=columns).to_pylist()
    for row in rows:
        pulse.beat()
        yield from_row(row)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """RunError for a file that is no Parquet, or of which a part was altered."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise RunError(f"{path}: damaged: not a readable Parquet file ({why}). {remedy(path)}") from None
