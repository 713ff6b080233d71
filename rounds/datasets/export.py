"""Exports image shards into the formats of other programs: selects cells, and counts what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cellsemi.configs.errors import DataError, UsageError
from cellsemi.configs.formats import entry_of
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import Instances, State
from cellsemi.rounds.formats.base import Exported, Writer
from cellsemi.rounds.formats.registry import FormatSpec, spec_of
from cellsemi.rounds.formats.shards import IMPORT_FILE, read_import
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.files import atomic_folder
from cellsemi.rounds.store.run import SPLITS, RunPaths, read_config
from cellsemi.rounds.store.schemas import ImageRecord

EXPORTED: tuple[State, ...] = ("human", "accepted", "predicted", "ignored")  # rejected cells never leave
UNSEEN = "images that no model could predict, written without cells"
BELOW = "cells below the cutoffs of score and area, left out"
NOT_ANNOTATED = "images without annotation, left out"


@dataclass(frozen=True, slots=True)
class Cells:
    """Which cells go out: those in one of the states that cutoffs keep (None: all).

    `unseen_as_empty`: an image without annotation is written without cells, as a submission must name it;
    else it is left out. Both are counted.
    """

    states: tuple[State, ...] = EXPORTED
    cutoffs: Cutoffs | None = None
    unseen_as_empty: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """Records to be exported, one in memory at a time, and the names of their classes."""

    records: Iterable[ImageRecord]
    classes: tuple[str, ...]


def named(name: str, out: Path) -> Path:
    """Where an export in the format `name` goes: a file gets the suffix of the format if it has another, or none.

    A folder that is there stays what it is: `export` refuses it.
    """
    suffix = Path(entry_of(name).file).suffix
    right = not suffix or out.suffix.lower() == suffix or out.is_dir()
    return out if right else out.with_name(out.name + suffix)


def export(source: Source, cells: Cells, name: str, out: Path, force: bool = False) -> Exported:
    """Write what is selected in the format `name`; its losses hold what the selection left out, too.

    A folder is whole or absent, as a file is. UsageError when `out` exists: `force` replaces a file, but a
    folder that holds something is never emptied.
    """
    spec = spec_of(name)
    assert spec.writer is not None, f"{name} is not written"
    _check_out(spec, out, force)
    left: Counter[str] = Counter()
    records = selected(source.records, cells, left)
    write = partial(_into_folder, spec.writer) if spec.writes_folder else spec.writer
    done = write(records, out, source.classes)
    done.losses = +(left + done.losses)
    return done


def export_folder(
    source: Source,
    cells: Cells,
    name: str,
    out: Path,
    watch: Callable[[Iterable[ImageRecord]], Iterable[ImageRecord]],
    describe: Callable[[Path, Exported], None],
) -> Exported:
    """Write what is selected in the format `name` into a new folder, also where the format is one file.

    `watch` sees the records on their way to the writer; `describe` adds what it likes to the folder, which is whole or
    absent. UsageError when `out` holds something.
    """
    spec = spec_of(name)
    assert spec.writer is not None, f"{name} is not written"
    _check_new_folder(out)
    left: Counter[str] = Counter()
    records = watch(selected(source.records, cells, left))
    with atomic_folder(out) as folder:
        done = spec.writer(records, folder if spec.writes_folder else folder / entry_of(name).file, source.classes)
        done.losses = +(left + done.losses)
        describe(folder, done)
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
        scored = np.ones(len(found), bool) if cells.cutoffs is None else cells.cutoffs.chosen(found)
        for state in sorted(set(found.state) - set(cells.states)):
            left[f"{state} cells, left out"] += found.state.count(state)
        left[BELOW] += int((wanted & ~scored).sum())
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
            return read_import(around).classes
        if RunPaths(around).config.is_file():
            return read_config(RunPaths(around)).data.classes
    found = (record.instances for place in places for record in shards.read_folder(place))
    top = max((int(cells.class_id.max()) for cells in found if cells is not None and len(cells)), default=0)
    return tuple(f"class{i}" for i in range(top + 1))


def _check_out(spec: FormatSpec, out: Path, force: bool) -> None:
    if not out.exists():
        return
    if spec.writes_folder:
        _check_new_folder(out)
    elif out.is_dir():
        raise UsageError(f"{out}: is a folder; {spec.name} is one file, name it (for example {out / 'export'})")
    elif not force:
        raise UsageError(f"{out}: exists; --force overwrites it")


def _check_new_folder(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists and is not an empty folder; name a new one, or remove it first")


def _into_folder(write: Writer, records: Iterable[ImageRecord], out: Path, classes: Sequence[str]) -> Exported:
    with atomic_folder(out) as folder:
        done = write(records, folder, classes)
    return done
