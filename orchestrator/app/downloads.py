"""Writes the cells of one image as a file to be downloaded, in every format that `cellsemi predict` writes."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from cellsemi.configs.formats import entry_of
from cellsemi.orchestrator.app.found import Found, kept_cells
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.datasets.export import Cells, Source, export


def write_download(found: Found, limits: Cutoffs, name: str, folder: Path) -> tuple[Path, dict[str, int]]:
    """The file, and what the format could not say, counted; a format that writes a folder becomes a ZIP of it.

    A CellsemiError says why it cannot be written.
    """
    place = folder / uuid.uuid4().hex[:12]
    place.mkdir(parents=True)
    record = found.record.with_(instances=kept_cells(found, limits))
    out = place / (entry_of(name).file or f"{record.image_id}-{name}")
    done = export(Source(iter([record]), found.classes), Cells(), name, out)
    if not out.is_dir():
        return out, dict(done.losses)
    packed = Path(shutil.make_archive(str(out), "zip", out))
    shutil.rmtree(out)
    return packed, dict(done.losses)
