"""Writes what was predicted for other programs, beside the predictions: FOLDER/label-maps/, FOLDER/coco.json .."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path

from cellsemi.configs.errors import ImageError
from cellsemi.configs.formats import entry_of
from cellsemi.orchestrator.apply.predict_files import FileState, Predicted
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.datasets.export import Cells, Source, export
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.store import files
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.shards import ShardSet

QUARANTINED = "quarantine.csv"


def records_of(predicted: Predicted, keep: Cutoffs) -> Iterator[ImageRecord]:
    """The predicted images by id, with their bytes and the cells that are kept; ImageError when a file is gone."""
    names = sorted({place.shard for place in predicted.rows.values()})
    records = ShardSet([predicted.folder / name for name in names])
    first = dict(zip(names, records.starts, strict=True))
    for _, place in sorted(predicted.rows.items()):
        record: ImageRecord = records[first[place.shard] + place.row]
        assert record.instances is not None, "an image that could not be predicted has no row"
        yield record.with_(image=_content(record.source), instances=keep.kept(record.instances))


def write_outputs(predicted: Predicted, keep: Cutoffs, formats: Sequence[str], out: Path) -> dict[str, Exported]:
    """Write each format below `out`; what an earlier call wrote there is replaced when the new one is whole."""
    return {name: write_output(predicted, keep, name, place_of(name, out)) for name in formats}


def write_output(predicted: Predicted, keep: Cutoffs, name: str, place: Path) -> Exported:
    """Write one format into the file or folder `place`, replacing what is there when the new one is whole."""
    source = Source(records_of(predicted, keep), predicted.classes)
    if entry_of(name).file:
        return export(source, Cells(), name, place, force=True)
    fresh = place.with_name(f".{place.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    done = export(source, Cells(), name, fresh)
    with files.explained(place):
        if place.exists():
            shutil.rmtree(place)
        fresh.replace(place)
    return done


def place_of(name: str, out: Path) -> Path:
    """Where a format is written below `out`: a file of its own name, or a folder."""
    return out / (entry_of(name).file or name)


def write_quarantined(states: Sequence[FileState], out: Path) -> None:
    """Write the images that could not be used, with the reason; no file where there is none."""
    path = out / QUARANTINED
    if not states:
        path.unlink(missing_ok=True)
        return
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([("image_id", "path", "problem"), *((s.image_id, s.path, s.problem) for s in states)])
    files.write_text(path, buffer.getvalue())


def _content(path: str) -> bytes:
    try:
        return files.place(path).read_bytes()
    except OSError as error:
        raise ImageError(path, f"was predicted and cannot be read now ({error.strerror})", "put it back") from None
