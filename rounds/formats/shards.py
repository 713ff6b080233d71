"""Reads image shards as a data set: what `cellsemi data import` wrote.

ROOT/import.json                      the class names, in the order of their ids (written last)
ROOT/{labelled,unlabelled,val,test}/part-00000.parquet ..
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from cellsemi.configs.data import Split
from cellsemi.configs.errors import DataError, RunError
from cellsemi.rounds.formats.base import NOTHING, Item, Loaded, Part
from cellsemi.rounds.formats.registry import FormatSpec
from cellsemi.rounds.formats.shared.detection import Detected
from cellsemi.rounds.formats.shared.folder_scan import FolderScan
from cellsemi.rounds.store import files
from cellsemi.rounds.store.image_codec import MAX_PIXELS
from cellsemi.rounds.store.run import QUARANTINE_FILE, SPLITS
from cellsemi.rounds.store.shards import ShardSet, read_columns, shard_paths
from cellsemi.rounds.store.unaltered import has_footer

IMPORT_FILE = "import.json"


class ImportRecord(BaseModel):
    """The file `import.json`: what was imported, how, and the shards that came of it.

    `settings` are those of the data section, `report` is the IngestReport without shards and times, `shards` holds
    the commit records of each split (file, hashes, rows, cells).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...]
    source: str
    settings: Mapping[str, object]
    report: Mapping[str, object]
    shards: Mapping[str, Sequence[Mapping[str, Any]]]
    versions: Mapping[str, str]
    schema_version: int

    @property
    def max_pixels(self) -> int:
        """The largest image that the import took, in pixels."""
        found = self.settings.get("max_pixels")
        return found if isinstance(found, int) else MAX_PIXELS


class ShardFolder:
    """The images of a folder that an import wrote; DataError when it is none, or not finished."""

    notes: tuple[str, ...] = ()
    left_out = NOTHING

    def __init__(self, root: Path) -> None:
        self.root = root
        self._record = read_import(root)
        self.classes = self._record.classes

    def files(self) -> dict[str, str]:
        """What the import wrote."""
        splits = [path for split in SPLITS for path in shard_paths(self.root / split)]
        paths = [self.root / IMPORT_FILE, self.root / QUARANTINE_FILE, *splits]
        return {path.relative_to(self.root).as_posix(): "" for path in paths}

    def items(self) -> Iterator[Item]:
        """Every image, by split and shard."""
        for split in get_args(Split):
            self._check(split)
            records = ShardSet(shard_paths(self.root / split))
            rows = read_columns(self.root / split, ["image_id", "cell_type", "group"])
            for index, row in enumerate(rows):
                load = partial(self._load, records, index)
                place = f"{split}, row {index + 1}"
                yield Item(row["image_id"], split, place, load, row["cell_type"], row["group"])

    def _check(self, split: Split) -> None:
        """DataError when a shard is not the one that was written, by its footer; its pages have checksums."""
        for listed in self._record.shards.get(split, ()):
            path = self.root / split / listed["file"]
            if not path.is_file():
                raise DataError(f"{path}: missing; import anew")
            if not has_footer(path, listed["footer_sha256"]):
                raise DataError(f"{path}: altered since the import wrote it; import anew")

    def _load(self, records: ShardSet, index: int) -> Loaded:
        try:
            return Loaded(records[index], self.classes)
        except RunError as error:
            raise DataError(f"{error}; altered since the import wrote it: import anew") from None


def open_part(part: Part) -> ShardFolder:
    """The whole folder: its sub-folders are the splits."""
    return ShardFolder(part.root)


def detect_shards(scan: FolderScan, file: str | None) -> Detected | None:
    """A folder with the file that an import writes last."""
    if file is not None or IMPORT_FILE not in scan.top.files:
        return None
    return Detected("shards", {"root": str(scan.root)}, f"{IMPORT_FILE}: what `cellsemi data import` wrote")


SHARDS = FormatSpec("shards", detect=detect_shards, evidence=f"{IMPORT_FILE} of an import", reader=open_part)


def read_import(root: Path) -> ImportRecord:
    """What an import wrote about itself, last; DataError when it is not there, or altered."""
    path = root / IMPORT_FILE
    try:
        return ImportRecord.model_validate(files.read_json(path))
    except FileNotFoundError:
        raise DataError(
            f"{root}: no {IMPORT_FILE}: not a folder of `cellsemi data import`, or one that was cut short; import anew"
        ) from None
    except RunError as error:
        raise DataError(str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise DataError(f"{path}: not what an import writes ({where}: {first['msg']}); import anew") from None
