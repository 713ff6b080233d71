"""`cellsemi data suspects`: the human labels of a run that its promoted models contradict, as a list and pictures.

Nothing of the run is changed: what is wrong is put right in the data set, by a person.
"""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from cellsemi.configs.errors import UsageError
from cellsemi.configs.loading import config_hash
from cellsemi.orchestrator.data_export import Wish, choose
from cellsemi.orchestrator.status import find_run
from cellsemi.rounds import files, shards
from cellsemi.rounds.overlay import Panel, contact_sheet
from cellsemi.rounds.run import RunPaths, read_config
from cellsemi.rounds.suspects import KINDS, Findings, Judged, Suspect, find_suspects
from cellsemi.rounds.tables import SUSPECTS, ImageRecord

PER_SHEET = 6  # suspects on a picture, each as drawn and as seen
AROUND = 3  # a picture shows so many times the larger side of the box,
LEAST_PX, MOST_PX = 96, 960  # within these bounds
SHOWN = 20  # suspects on the terminal; all are in the table
OTHERS, SUSPECT = 0, 1
MARKED = ("other cells", "to be looked at")


@dataclass(frozen=True, slots=True)
class Search:
    """What was looked for and found; `unseen` images could not be predicted, or were never annotated."""

    run: str
    split: str
    by: str
    classes: tuple[str, ...]
    images: int
    cells: int
    unseen: int
    findings: Findings
    out: Path
    sheets: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "run": self.run,
            "split": self.split,
            "by": self.by,
            "out": str(self.out),
            "images": self.images,
            "cells": self.cells,
            "unseen_images": self.unseen,
            "sure_from": self.sure_from(),
            "sheets": self.sheets,
            "suspects": _rows(self.findings.suspects),
        }

    def sure_from(self) -> dict[str, list[float] | None]:
        """Per class the lowest and the highest quality over the images from which predictions are sure.

        None where no prediction is right.
        """
        sure = np.array([trust.sure for trust in self.findings.trust.values()]).reshape(-1, len(self.classes))
        finite = {name: column[np.isfinite(column)] for name, column in zip(self.classes, sure.T, strict=True)}
        return {name: [float(v.min()), float(v.max())] if len(v) else None for name, v in finite.items()}


def search(name: str, split: str, out: Path | None, count: Callable[[str, int, int | None], None]) -> Search:
    """Find the suspects of a split of a run and write them as suspects.parquet, .csv and pictures.

    `out` defaults to suspects-RUN here. UsageError when it holds something, or there is no such run; RunError
    when no round is finished.
    """
    paths = find_run(name)
    choice = choose(str(paths.root), Wish(split=split, min_score=0.0))
    out = out or Path(f"suspects-{paths.name}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists and is not an empty folder; name a new one with --out, or remove it first")
    judged: list[Judged] = []
    images = 0
    for found, known in zip(choice.source.records, shards.read_folder(paths.split(split)), strict=True):
        images += 1
        if found.instances is not None and known.instances is not None:
            judged.append((known.image_id, found.instances, known.instances))
        count("read images", images, None)
    config = read_config(paths)
    findings = find_suspects(judged, config.data.classes, config.screen.min_samples)
    sheets = _write(out, paths, split, findings, config_hash(config), count)
    cells = sum(truth.state.count("human") for _, _, truth in judged)
    unseen = images - len(judged)
    return Search(
        paths.name, split, choice.sentence, config.data.classes, len(judged), cells, unseen, findings, out, sheets
    )


# --- files --------------------------------------------------------------------------------------------


def _write(
    out: Path,
    paths: RunPaths,
    split: str,
    findings: Findings,
    hashed: str,
    count: Callable[[str, int, int | None], None],
) -> int:
    """Write into a folder beside `out`, which takes its name when all is written; returns the number of pictures."""
    unfinished = out.with_name(f".{out.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a call that was killed
    try:
        with files.explained(out):
            unfinished.mkdir(parents=True)
            rows = _rows(findings.suspects)
            shards.write_rows(unfinished / "suspects.parquet", rows, SUSPECTS, hashed)
            files.write_text(unfinished / "suspects.csv", to_csv(rows))
            sheets = 0
            for sheets, picture in enumerate(_pictures(paths.split(split), findings), start=1):
                files.write_bytes(unfinished / _sheet((sheets - 1) * PER_SHEET), picture)
                count("draw", sheets, -(-len(rows) // PER_SHEET))
            if out.is_dir():
                out.rmdir()
            unfinished.replace(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return sheets


def _rows(suspects: Sequence[Suspect]) -> list[dict[str, Any]]:
    """The rows of the SUSPECTS table, in its order."""
    found = [suspect.to_row() | {"sheet": _sheet(i)} for i, suspect in enumerate(suspects)]
    return [{name: row[name] for name in SUSPECTS.names} for row in found]


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """One line per suspect, all digits; empty where there is no value."""
    buffer = StringIO()
    writer = csv.DictWriter(buffer, fieldnames=SUSPECTS.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _sheet(index: int) -> str:
    """The picture that shows suspect `index`."""
    return f"sheet-{index // PER_SHEET + 1:03d}.png"


# --- pictures -----------------------------------------------------------------------------------------


def _pictures(images: Path, findings: Findings) -> Iterator[bytes]:
    """PNGs of PER_SHEET suspects each, in their order: as people drew them, beside what the models are sure of."""
    stored = shards.ShardSet(shards.shard_paths(images), cached_groups=2 * PER_SHEET)
    place = {row["image_id"]: i for i, row in enumerate(shards.read_columns(images, ["image_id"]))}
    for start in range(0, len(findings.suspects), PER_SHEET):
        some = findings.suspects[start : start + PER_SHEET]
        panels = [panel for s in some for panel in _panels(stored[place[s.image_id]], s, findings)]
        yield contact_sheet(panels, in_row=2)


def _panels(record: ImageRecord, suspect: Suspect, findings: Findings) -> Iterator[Panel]:
    seen, drawn = findings.seen[suspect.image_id], record.instances
    assert drawn is not None, "an annotated image was judged"
    sure = np.flatnonzero(seen.quality >= findings.trust[suspect.image_id].sure[seen.class_id])
    x0, y0, x1, y1 = suspect.bbox
    side = int(np.clip(AROUND * max(x1 - x0, y1 - y0), LEAST_PX, MOST_PX))
    window = _around((y0 + y1) // 2, side, record.height), _around((x0 + x1) // 2, side, record.width)
    for cells, at, whose in (
        (drawn, np.arange(len(drawn)) == suspect.cell, f"{suspect.kind}: as drawn"),
        (seen.select(sure), sure == suspect.seen, f"sure predictions, {suspect.confidence:.2f}"),
    ):
        marked = cells.with_(class_id=np.where(at, SUSPECT, OTHERS), score=np.where(at, 1.0, cells.score * 0.999))
        yield Panel(record, marked, MARKED, whose, window)


def _around(middle: int, side: int, size: int) -> slice:
    """`side` pixels around `middle`, moved to lie within 0 and `size`; all of them where there are fewer."""
    start = max(0, min(middle - side // 2, size - side))
    return slice(start, min(start + side, size))


# --- words --------------------------------------------------------------------------------------------


def print_search(found: Search, console: Console | None = None) -> None:
    """What was judged by whom, how many of each kind, the surest, and where all are."""
    console = console or Console(highlight=False)

    def line(text: str) -> None:
        console.print(escape(text), soft_wrap=True)

    suspects = found.findings.suspects
    line(f"{found.by}: {found.cells} human cells of {found.images} images looked at")
    if found.unseen:
        line(f"not judged: {found.unseen} images that no model could look at, or nobody annotated")
    for name, sure in found.sure_from().items():
        told = "no prediction is right" if sure is None else f"sure from a quality of {sure[0]:.2f} .. {sure[1]:.2f} on"
        line(f"  {name}: {told}")
    kinds = Counter(suspect.kind for suspect in suspects)
    line(f"{len(suspects)} to be looked at: " + ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS))
    for s in suspects[:SHOWN]:
        line(f"  {s.confidence:.2f}  {s.image_id} at x {s.bbox[0]}, y {s.bbox[1]}: {s.reason}")
    if len(suspects) > SHOWN:
        line(f"  and {len(suspects) - SHOWN} more")
    line(f"{found.out}: suspects.csv, suspects.parquet, {found.sheets} pictures. Nothing in the run was changed.")
