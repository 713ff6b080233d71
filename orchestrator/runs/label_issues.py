"""Lists the human labels of a run that its promoted models contradict, with pictures (`cellsemi data label-issues`).

Nothing of the run is changed: what is wrong is put right in the data set, by a person; or the table is handed to
another run as `data.label_issues`, which then ignores what it names.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import zip_longest
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

from cellsemi.configs.errors import RunError, UsageError
from cellsemi.configs.loading import config_hash
from cellsemi.orchestrator.runs.export import ExportRequest, choose, finished_round
from cellsemi.orchestrator.runs.find_run import find_run
from cellsemi.rounds.datasets.label_issue_file import LEARNT
from cellsemi.rounds.evaluation.label_issues import KINDS, Findings, Judged, LabelIssue, find_label_issues
from cellsemi.rounds.report.contact_sheet import Panel, contact_sheet, window_around
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.folds import HUMAN_SPLIT
from cellsemi.rounds.store.predictions import evaluated_sets, pairs_of
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths, read_config
from cellsemi.rounds.store.schemas import LABEL_ISSUES, ImageRecord

PER_SHEET = 6  # label issues on a picture, each as drawn and as seen
LEAST_PX = 96  # the side of a picture of one
SHOWN_ISSUES = 20  # label issues on the terminal; all are in the table
OTHERS, ISSUE = 0, 1
MARKED = ("other cells", "to be checked")

Count = Callable[[str, int, int | None], None]  # what, done, of


@dataclass(frozen=True, slots=True)
class Search:
    """What was searched and found.

    `unseen` images could not be predicted, or were never annotated; `splits` are those of the judged ones, by id.
    """

    run: str
    split: str
    by: str
    classes: tuple[str, ...]
    images: int
    cells: int
    unseen: int
    findings: Findings
    splits: dict[str, str]
    out: Path
    sheets: int

    def to_json(self) -> dict[str, object]:
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
            "label_issues": _rows(self.findings.issues, self.splits),
        }

    def sure_from(self) -> dict[str, list[float] | None]:
        """Per class the lowest and the highest quality over the images from which predictions are sure.

        None where no prediction is right.
        """
        sure = np.array([trust.sure for trust in self.findings.trust.values()]).reshape(-1, len(self.classes))
        finite = {name: column[np.isfinite(column)] for name, column in zip(self.classes, sure.T, strict=True)}
        return {name: [float(v.min()), float(v.max())] if len(v) else None for name, v in finite.items()}


@dataclass(frozen=True, slots=True)
class Judges:
    """Who judges a split, in words, and the (predictions, images) folders in which they do, out of sample."""

    by: str
    folders: tuple[tuple[Path, Path], ...]


def judged_split(paths: RunPaths, split: str) -> Judges:
    """The promoted models on images that none of them learned from: one pair of folders, of the hold-out.

    This is the one place that knows where such predictions lie. UsageError for labelled images, which the models
    learned from; RunError when there are no predictions.
    """
    config = read_config(paths)
    if config.rounds.folds is not None and split != "test":
        round = finished_round(paths, None)
        pairs = tuple(pairs_of(paths, evaluated_sets(config, round, ENSEMBLE, "val")))
        return Judges(f"{ENSEMBLE} of round {round} of {paths.name}, each fold by those who left it out", pairs)
    if split == HUMAN_SPLIT:
        raise UsageError(
            f"--split {split}: the models of {paths.name} learned from these labels and would repeat them, wrong ones "
            "too. Judge val, or make a run with rounds.folds, in which every label is judged by models that left it out"
        )
    choice = choose(str(paths.root), ExportRequest(split=split, min_score=0.0))
    round = finished_round(paths, None)
    return Judges(choice.sentence, ((paths.predictions(round, ENSEMBLE, split), paths.split(split)),))


@dataclass(frozen=True, slots=True)
class Judgement:
    """What `judges` say of the labels of a split: the judged images, their splits by id, and how many there are."""

    judges: Judges
    images: int
    judged: list[Judged]
    splits: dict[str, str]
    findings: Findings


def judge(paths: RunPaths, split: str, count: Count = lambda what, done, of: None) -> Judgement:
    """Find the label issues of a split of a run; errors as `judged_split`."""
    judges = judged_split(paths, split)
    judged: list[Judged] = []
    splits: dict[str, str] = {}
    images = 0
    for found, known in _judged_images(judges):
        images += 1
        if found.instances is not None and known.instances is not None:
            judged.append((known.image_id, found.instances, known.instances))
            splits[known.image_id] = known.split
        count("read images", images, None)
    config = read_config(paths)
    findings = find_label_issues(judged, config.data.classes, config.filter.min_samples)
    return Judgement(judges, images, judged, splits, findings)


def search(name: str, split: str, out: Path | None, count: Count) -> Search:
    """Find the label issues of a split of a run; write label_issues.parquet, label_issues.csv and pictures.

    `out` defaults to label-issues-RUN here. UsageError when it holds something, there is no such run, or its models
    learned from the split; RunError when no round is finished.
    """
    paths = find_run(name)
    judged_split(paths, split)
    out = out or Path(f"label-issues-{paths.name}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists and is not an empty folder; name a new one with --out, or remove it first")
    found = judge(paths, split, count)
    config = read_config(paths)
    rows = _rows(found.findings.issues, found.splits)
    folders = [folder for _, folder in found.judges.folders]
    sheets = _write(out, folders, found.findings, rows, hashed=config_hash(config), count=count)
    return Search(
        run=paths.name,
        split=split,
        by=found.judges.by,
        classes=config.data.classes,
        images=len(found.judged),
        cells=sum(truth.state.count("human") for _, _, truth in found.judged),
        unseen=found.images - len(found.judged),
        findings=found.findings,
        splits=found.splits,
        out=out,
        sheets=sheets,
    )


def _judged_images(judges: Judges) -> Iterator[tuple[ImageRecord, ImageRecord]]:
    """(prediction, image with its labels) of every image; RunError when the two do not fit."""
    for predictions, images in judges.folders:
        pairs = zip_longest(shards.read_folder(predictions), shards.read_folder(images))
        for found, known in pairs:
            if found is None or known is None or found.image_id != known.image_id:
                raise RunError(f"{predictions}: not of the images in {images}; the run was altered by hand")
            yield found, known


# --- files --------------------------------------------------------------------------------------------


def _write(
    out: Path,
    images: Sequence[Path],
    findings: Findings,
    rows: Sequence[dict[str, object]],
    *,
    hashed: str,
    count: Count,
) -> int:
    """Write the table and the pictures into the new folder `out`; returns the number of pictures."""
    sheets = 0
    with files.atomic_folder(out) as folder:
        shards.write_rows(folder / "label_issues.parquet", rows, LABEL_ISSUES, hashed)
        files.write_text(folder / "label_issues.csv", to_csv(rows))
        for sheets, picture in enumerate(_pictures(images, findings), start=1):
            files.write_bytes(folder / _sheet((sheets - 1) * PER_SHEET), picture)
            count("draw", sheets, -(-len(rows) // PER_SHEET))
    return sheets


def _rows(issues: Sequence[LabelIssue], splits: Mapping[str, str]) -> list[dict[str, object]]:
    """The rows of the LABEL_ISSUES table, in its order; `splits` are those of the images, by id."""
    found = [s.to_row() | {"split": splits[s.image_id], "sheet": _sheet(i)} for i, s in enumerate(issues)]
    return [{name: row[name] for name in LABEL_ISSUES.names} for row in found]


def to_csv(rows: Sequence[dict[str, object]]) -> str:
    """One line per label issue, all digits; empty where there is no value."""
    buffer = StringIO()
    writer = csv.DictWriter(buffer, fieldnames=LABEL_ISSUES.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _sheet(index: int) -> str:
    """The picture that shows label issue `index`."""
    return f"sheet-{index // PER_SHEET + 1:03d}.png"


# --- pictures -----------------------------------------------------------------------------------------


def _pictures(images: Sequence[Path], findings: Findings) -> Iterator[bytes]:
    """PNGs of PER_SHEET label issues each, in their order: as people drew them, beside what the models are sure of."""
    stored = shards.ShardSet([path for each in images for path in shards.shard_paths(each)])
    listed = (row["image_id"] for each in images for row in shards.read_columns(each, ["image_id"]))
    place = {image_id: i for i, image_id in enumerate(listed)}
    for start in range(0, len(findings.issues), PER_SHEET):
        some = findings.issues[start : start + PER_SHEET]
        panels = [panel for s in some for panel in _panels(stored[place[s.image_id]], s, findings)]
        yield contact_sheet(panels, in_row=2)


def _panels(record: ImageRecord, issue: LabelIssue, findings: Findings) -> Iterator[Panel]:
    seen, drawn = findings.seen[issue.image_id], record.instances
    assert drawn is not None, "an annotated image was judged"
    sure = np.flatnonzero(seen.quality >= findings.trust[issue.image_id].sure[seen.class_id])
    window = window_around(record, issue.bbox, LEAST_PX)
    for cells, at, whose in (
        (drawn, np.arange(len(drawn)) == issue.cell, f"{issue.kind}: as drawn"),
        (seen.select(sure), sure == issue.seen, f"sure predictions, {issue.confidence:.2f}"),
    ):
        marked = cells.with_(class_id=np.where(at, ISSUE, OTHERS), score=np.where(at, 1.0, cells.score * 0.999))
        yield Panel(record, marked, MARKED, whose, window)


# --- words --------------------------------------------------------------------------------------------


def print_search(found: Search, console: Console | None = None) -> None:
    """What was judged by whom, how many of each kind, the surest, and where all are."""
    console = console or Console(highlight=False)

    def line(text: str) -> None:
        console.print(escape(text), soft_wrap=True)

    issues = found.findings.issues
    line(f"{found.by}: {found.cells} human cells of {found.images} images judged")
    if found.unseen:
        line(f"not judged: {found.unseen} images that no model could predict, or nobody annotated")
    for name, sure in found.sure_from().items():
        level = (
            "no prediction is right" if sure is None else f"sure from a quality of {sure[0]:.2f} .. {sure[1]:.2f} on"
        )
        line(f"  {name}: {level}")
    kinds = Counter(issue.kind for issue in issues)
    line(f"{len(issues)} to be checked: " + ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS))
    for s in issues[:SHOWN_ISSUES]:
        line(f"  {s.confidence:.2f}  {s.image_id} at x {s.bbox[0]}, y {s.bbox[1]}: {s.reason}")
    if len(issues) > SHOWN_ISSUES:
        line(f"  and {len(issues) - SHOWN_ISSUES} more")
    line(
        f"{found.out}: label_issues.csv, label_issues.parquet, {found.sheets} pictures. Nothing in the run was changed."
    )
    if issues and found.split in LEARNT:
        table = found.out / "label_issues.csv"
        line(f"Next: take out the rows of labels that are right; --set data.label_issues={table}")
        line("in another run (--run NAME) ignores those that are left.")
