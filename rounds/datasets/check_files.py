"""Checks one file against its format: a COCO JSON with every mask drawn, or a Kaggle submission."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from cellsemi.configs.errors import DataError, ImageError, UsageError
from cellsemi.rounds.datasets.check_shards import Checked, OnImage, Problem, check_shards
from cellsemi.rounds.formats.coco.index import ImageEntry, Index, place_of, read_index
from cellsemi.rounds.formats.coco.reader import ORPHANS
from cellsemi.rounds.formats.coco.segmentation import measure, to_rles
from cellsemi.rounds.formats.kaggle import check

Numbered = tuple[int, dict[str, object]]  # an annotation and its number in the file, from 1


def check_path(path: Path, order: Literal["row", "column"], on_image: OnImage) -> Checked:
    """Check what `path` is: a folder of image shards, a COCO JSON, or the CSV of a submission.

    `order` is the pixel order of the submission. UsageError when it is nothing of these.
    """
    if path.is_dir():
        return check_shards(path, on_image)
    if path.suffix.lower() == ".json":
        return check_coco(path)
    if path.suffix.lower() == ".csv":
        return check_submission(path, order)
    raise UsageError(f"{path}: expected a folder of image shards, a COCO .json or a submission .csv")


def check_submission(path: Path, order: Literal["row", "column"]) -> Checked:
    """Check a submission without knowing its images: rows, run lengths, pixels that two cells share."""
    report = check.check(path, None, order)
    problems = [Problem(path.name, problem) for problem in report.problems]
    if report.count > len(problems):
        problems.append(Problem(path.name, f"and {report.count - len(problems)} more problems"))
    counts = {"images": report.images, "cells": report.cells, "pixels": report.pixels}
    return Checked("submission", counts, problems)


def check_coco(path: Path) -> Checked:
    """Check a COCO file: its listing, and that every annotation is a mask in the image size that the file states.

    What is wrong with the listing is one problem: the rest cannot be checked then.
    """
    checked = Checked("COCO file")
    try:
        index = read_index(path)
        cells = 0
        for number, entry in enumerate(index.entries):
            annotations = list(index.annotations([number]))
            checked.problems += _check_entry(path.name, entry, annotations)
            cells += len(annotations)
    except DataError as error:
        checked.problems.append(_problem(path, error))
        return checked
    if index.orphans:
        checked.problems.append(Problem(path.name, f"{index.orphans} {ORPHANS}"))
    checked.counts = {"images": len(index.entries), "cells": cells, "classes": len(index.used)}
    checked.problems += _check_names(path.name, index)
    return checked


def _check_entry(name: str, entry: ImageEntry, annotations: Sequence[Numbered]) -> Iterator[Problem]:
    if entry.size is None:
        yield Problem(name, f"image {entry.number} ({entry.file_name}): no usable width and height")
        return
    try:
        _draw(name, entry.size, annotations)
    except ImageError:  # one by one, to name each that is wrong
        for annotation in annotations:
            try:
                _draw(name, entry.size, [annotation])
            except ImageError as error:
                yield Problem(error.path, error.described)


def _draw(name: str, size: tuple[int, int], annotations: Sequence[Numbered]) -> None:
    def place(i: int) -> str:
        return place_of(name, "annotation", *annotations[i])

    rles = to_rles([value.get("segmentation") for _, value in annotations], *size, place)
    measure(rles, *size, place)


def _check_names(name: str, index: Index) -> Iterator[Problem]:
    """Entries of one file that state different sizes; entries that agree are joined when they are read."""
    first: dict[str, ImageEntry] = {}
    for entry in index.entries:
        earlier = first.setdefault(entry.file_name, entry)
        if earlier.size != entry.size:
            yield Problem(name, f"images {earlier.number} and {entry.number} are {entry.file_name} in two sizes")


def _problem(path: Path, error: DataError) -> Problem:
    return Problem(str(path), str(error).removeprefix(f"{path}: "))
