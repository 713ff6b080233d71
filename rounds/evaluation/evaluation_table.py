"""Stores the evaluation of a round as a table: one row per model, split and image. Every figure follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from cellsemi.configs.errors import RunError
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.evaluation.metrics import Coco, ImageScore, Tally
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.schemas import EVALUATION


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model of one round on one split, with the cutoffs that were chosen on val.

    A val image was scored with those that the images of other groups chose (`choose_cutoffs`).
    """

    round: int
    model: str
    split: str
    cutoffs: Cutoffs
    scores: tuple[ImageScore, ...]
    coco: Coco | None = None  # of all predictions, where it is asked for (`rounds.coco`)


def write_evaluations(path: Path, evaluations: Iterable[Evaluation], classes: Sequence[str], config_hash: str) -> None:
    """Write the EVALUATION table of a round atomically."""
    rows = [_row(found, score, classes) for found in evaluations for score in found.scores]
    shards.write_rows(path, rows, EVALUATION, config_hash)


def read_evaluations(path: Path, classes: Sequence[str]) -> list[Evaluation]:
    """The evaluations of a file, in its order; RunError when it is missing, damaged or of other classes."""
    rows = shards.read_rows(path)
    foreign = {cell["class"] for row in rows for cell in row["classes"]} - set(classes)
    if foreign:
        raise RunError(f"{path}: holds classes {sorted(foreign)} that the run's config does not name")
    found = []
    for key, group in groupby(rows, lambda row: (row["round"], row["model"], row["split"])):
        own = list(group)
        first = own[0]
        coco = None if first["coco_map"] is None else Coco(first["coco_map"], first["coco_map50"])
        found.append(Evaluation(*key, _cutoffs(first), tuple(_score(row, classes) for row in own), coco))
    return found


def found_or_empty(evaluations: Iterable[Evaluation], round: int, model: str, split: str) -> Evaluation:
    """The one of this model and split, without images where the masks of a teacher lack the split."""
    return _first_of(evaluations, model, split) or Evaluation(round, model, split, Cutoffs((), ()), ())


def find(evaluations: Iterable[Evaluation], model: str, split: str) -> Evaluation:
    """The one of this model and split; RunError when there is none."""
    if (found := _first_of(evaluations, model, split)) is None:
        raise RunError(f"the evaluation holds no rows of {model!r} on {split!r}; remove its file to make it again")
    return found


def _first_of(evaluations: Iterable[Evaluation], model: str, split: str) -> Evaluation | None:
    return next((found for found in evaluations if (found.model, found.split) == (model, split)), None)


def _row(found: Evaluation, score: ImageScore, classes: Sequence[str]) -> dict[str, object]:
    return {
        "round": found.round,
        "model": found.model,
        "split": found.split,
        "cutoffs": [
            {"class": name, "min_score": score, "min_area_px": area}
            for name, score, area in zip(classes, found.cutoffs.min_score, found.cutoffs.min_area_px, strict=True)
        ],
        "image_id": score.image_id,
        "coco_map": None if found.coco is None else found.coco.map,
        "coco_map50": None if found.coco is None else found.coco.map50,
        **_values(score.total),
        "classes": [{"class": classes[c], **_values(score.by_class[c])} for c in sorted(score.by_class)],
    }


def _values(tally: Tally) -> dict[str, object]:
    return {
        "ap": tally.ap,
        "n_truth": tally.n_truth,
        "n_predicted": tally.n_predicted,
        "tp": list(tally.tp),
        "mean_iou": tally.mean_iou,
    }


def _cutoffs(row: Mapping[str, Any]) -> Cutoffs:
    return Cutoffs(
        tuple(each["min_score"] for each in row["cutoffs"]), tuple(each["min_area_px"] for each in row["cutoffs"])
    )


def _score(row: Mapping[str, Any], classes: Sequence[str]) -> ImageScore:
    by_class = {classes.index(cell["class"]): _tally(cell) for cell in row["classes"]}
    return ImageScore(row["image_id"], _tally(row), by_class)


def _tally(row: Mapping[str, Any]) -> Tally:
    return Tally(row["n_truth"], row["n_predicted"], tuple(row["tp"]), row["mean_iou"])
