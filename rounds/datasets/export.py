"""Image shards into the formats of other programs: which cells go out, and what is said about the rest."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from cellsemi.configs.errors import DataError, UsageError
from cellsemi.rounds.cells.instances import Instances, State
from cellsemi.rounds.formats.base import Exported, Writer
from cellsemi.rounds.formats.shards import IMPORT_FILE, read_import
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.files import atomic_folder
from cellsemi.rounds.store.run import SPLITS, RunPaths, read_config
from cellsemi.rounds.store.schemas import ImageRecord

# Name of a format -> the function that writes it.
WRITERS: dict[str, str] = {
    "kaggle": "cellsemi.rounds.formats.kaggle.writer:write",
    "kaggle-columns": "cellsemi.rounds.formats.kaggle.writer:write_column_major",
    "coco": "cellsemi.rounds.formats.coco.writer:write",
    "label-maps": "cellsemi.rounds.formats.label_map.writer:write",
    "seg-npy": "cellsemi.rounds.formats.cellpose.seg_npy:write",
    "imagej-rois": "cellsemi.rounds.formats.imagej.roi_set:write",
    "geojson": "cellsemi.rounds.formats.qupath.geojson:write",
    "measurements": "cellsemi.rounds.formats.measurements:write",
}
FOLDERS = ("label-maps", "seg-npy", "imagej-rois", "geojson")  # written as a folder; the others are one file
EXPORTED: tuple[State, ...] = ("human", "accepted", "predicted", "ignored")  # rejected cells never leave
UNSEEN = "images that no model could look at, written without cells"
NOT_ANNOTATED = "images without annotation, left out"


@dataclass(frozen=True, slots=True)
class Cells:
    """Which cells go out: those in one of the states with at least this score.

    `unseen_as_empty`: an image without annotation is written without cells, as a submission must name it;
    else it is left out. Both are counted.
    """

    states: tuple[State, ...] = EXPORTED
    min_score: float = 0.0
    unseen_as_empty: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """Records to be exported, one in memory at a time, and the names of their classes."""

    records: Iterable[ImageRecord]
    classes: tuple[str, ...]


def export(source: Source, cells: Cells, name: str, out: Path, force: bool = False) -> Exported:
    """Write what is selected in the format `name`; its losses hold what the selection left out, too.

    A folder is whole or absent, as a file is. UsageError when `out` exists: `force` replaces a file, but a
    folder that holds something is never emptied.
    """
    _check_out(name, out, force)
    module, function = WRITERS[name].split(":")
    write = cast(Writer, getattr(importlib.import_module(module), function))
    left: Counter[str] = Counter()
    records = selected(source.records, cells, left)
    done = _into_folder(write, records, out, source.classes) if name in FOLDERS else write(records, out, source.classes)
    done.losses = +(left + done.losses)
    return done


def selected(records: Iterable[ImageRecord], cells: Cells, left: Counter[str]) -> Iterator[ImageRecord]:
    """The records with the cells that go out; what does not is counted in `left`."""
    for record in records:
        found = record.instances
        if found is None:
            left[UNSEEN if cells.unseen_as_empty else NOT_ANNOTATED] += 1
            if cells.unseen_as_empty:
                yield record.with_(instances=Instances.empty(record.height, record.width))
            continue
        wanted = np.array([state in cells.states for state in found.state], bool)
        scored = found.score >= cells.min_score
        for state in sorted(set(found.state) - set(cells.states)):
            left[f"{state} cells, left out"] += found.state.count(state)
        left[f"cells with a score below {cells.min_score:g}, left out"] += int((wanted & ~scored).sum())
        yield record.with_(instances=found.select(wanted & scored))


def of_folder(folder: Path, splits: Collection[str] | None = None) -> Source:
    """The records of an import (of some of its splits), or of a folder of image shards.

    DataError when there are none. Class names come from the import or the run that the folder lies in; where
    there is neither they are numbers.
    """
    is_import = (folder / IMPORT_FILE).is_file()
    places = [folder / split for split in splits or SPLITS] if is_import else [folder]
    places = [place for place in places if shards.shard_paths(place)]
    if not places:
        raise DataError(f"{folder}: no image shards (part-*.parquet)" + (f" of {', '.join(splits)}" if splits else ""))
    return Source((record for place in places for record in shards.read_folder(place)), class_names(folder, places))


def class_names(folder: Path, places: Sequence[Path]) -> tuple[str, ...]:
    """The names of the classes of shards in `folder`, from what lies around them."""
    for around in (folder, *folder.resolve().parents[:4]):
        if (around / IMPORT_FILE).is_file():
            return tuple(read_import(around)["classes"])
        if RunPaths(around).config.is_file():
            return read_config(RunPaths(around)).data.classes
    found = (record.instances for place in places for record in shards.read_folder(place))
    top = max((int(cells.class_id.max()) for cells in found if cells is not None and len(cells)), default=0)
    return tuple(f"class{i}" for i in range(top + 1))


def _check_out(name: str, out: Path, force: bool) -> None:
    if not out.exists():
        return
    if name in FOLDERS:
        if not out.is_dir() or any(out.iterdir()):
            raise UsageError(f"{out}: exists and is not an empty folder; name a new one, or remove it first")
    elif out.is_dir():
        raise UsageError(f"{out}: is a folder; {name} is one file, name it (for example {out / 'export'})")
    elif not force:
        raise UsageError(f"{out}: exists; --force overwrites it")


def _into_folder(write: Writer, records: Iterator[ImageRecord], out: Path, classes: Sequence[str]) -> Exported:
    with atomic_folder(out) as folder:
        done = write(records, folder, classes)
    return done
