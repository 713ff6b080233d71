"""Writes and reads Parquet image shards, row by row, without holding a data set in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from cellsemi.configs.errors import RunError
from cellsemi.rounds import pulse
from cellsemi.rounds.store import files
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.schemas import ImageRecord, check_version, from_row, to_table, versioned
from cellsemi.rounds.store.unaltered import SHARDS, check_output, check_shard, remedy

ROWS_PER_GROUP = 4  # read together when one record is asked for; fewer make the columns of a shard slow to read
SHARDS_PER_WORKER = 8  # so that the last shard of a folder keeps the others waiting for a small part of the time
MOST_IMAGES = 256  # of a shard whose size nobody states: what is lost in a crash, and held in memory, stays bounded


def part_name(index: int) -> str:
    """File name of shard `index`."""
    return f"part-{index:05d}.parquet"


class Shard(OnDisk):
    """A shard that is written: its file's name, hex sha256, images and cells."""

    file: str
    rows: int
    cells: int
    sha256: str


def write_shard(path: Path, records: Sequence[ImageRecord], config_hash: str) -> Shard:
    """Write one shard atomically.

    The same records give the same bytes.
    """
    buffer = BytesIO()
    pq.write_table(to_table(list(records), config_hash), buffer, row_group_size=ROWS_PER_GROUP, compression="zstd")
    content = buffer.getvalue()
    files.write_bytes(path, content)
    cells = sum(len(record.instances) for record in records if record.instances is not None)
    return Shard(file=path.name, rows=len(records), cells=cells, sha256=files.sha256_bytes(content))


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


def read_shard(path: Path) -> Iterator[ImageRecord]:
    """The records of one shard, a row group in memory at a time."""
    with _open(path) as file:
        for group in range(file.num_row_groups):
            yield from _records(path, file, group)


def read_folder(folder: Path) -> Iterator[ImageRecord]:
    """The records of all shards of a folder, in order."""
    for path in shard_paths(folder):
        yield from read_shard(path)


def read_columns(folder: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of all rows of a folder as plain dicts (without the images it is small)."""
    rows: list[dict[str, Any]] = []
    for path in shard_paths(folder):
        with _open(path) as file, _readable(path):
            rows += file.read(columns=list(columns)).to_pylist()
    return rows


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
    """Random access to the records of some shards: one row is decoded for one record.

    Whoever wants records again keeps them. The files stay open; a copy in another process opens its own.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._files = [_open(path) for path in paths]
        self._index = [
            (f, group, row)
            for f, file in enumerate(self._files)
            for group in range(file.num_row_groups)
            for row in range(file.metadata.row_group(group).num_rows)
        ]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        f, group, row = self._index[index]
        with _readable(self._paths[f]):
            (found,) = self._files[f].read_row_group(group).slice(row, 1).to_pylist()
        return from_row(found)

    def __reduce__(self) -> tuple[type[ShardSet], tuple[list[Path]]]:
        return ShardSet, (self._paths,)


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
        file = pq.ParquetFile(path)
    check_version(file.schema_arrow, str(path))
    return file


def _records(path: Path, file: pq.ParquetFile, group: int) -> Iterator[ImageRecord]:
    with _readable(path):
        rows = file.read_row_group(group).to_pylist()
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
