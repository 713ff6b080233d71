"""Finds what a run knows of an image: its split, human labels, and what the filter said of its pseudo-labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellsemi.configs.errors import UsageError
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.explain.reasons import PseudoRow, pseudo_rows
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.history import RoundManifest, standing_round
from cellsemi.rounds.pseudo_labels.filter_file import FilterFile
from cellsemi.rounds.pseudo_labels.thresholds import Thresholds
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.run import SPLITS, RunPaths, read_config
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.shards import ShardSet, read_columns, shard_paths
from cellsemi.rounds.store.unaltered import MANIFEST


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """What the filter of a round said of an image, in one fold of it (`fold` is its suffix).

    `cells` is None where no teacher could predict the image.
    """

    round: int
    fold: str
    cells: Instances | None
    rows: tuple[PseudoRow, ...]


@dataclass(frozen=True, slots=True)
class RunImage:
    """An image of a run: its row there, with human labels where it has some, and its pseudo-labels of one round."""

    record: ImageRecord
    split: str
    pseudo: tuple[PseudoLabels, ...] = ()

    @property
    def truth(self) -> Instances | None:
        """The human labels."""
        return None if self.split == "unlabelled" else self.record.instances


def image_called(paths: RunPaths, image_id: str, round: int | None = None) -> RunImage:
    """The image of a run with this id; UsageError when it has none."""
    found = _find(paths, lambda row: row["image_id"] == image_id, round)
    if found is None:
        raise UsageError(f"{image_id}: no such file, and no image of the run {paths.name} has this id")
    return found


def image_with_pixels(paths: RunPaths, sha256: str, round: int | None = None) -> RunImage | None:
    """The image of a run with these very pixels; None when it has none."""
    return _find(paths, lambda row: row["sha256"] == sha256, round)


def _find(paths: RunPaths, wanted: Callable[[Mapping[str, Any]], bool], round: int | None) -> RunImage | None:
    for split in SPLITS:
        folder = paths.split(split)
        place = next((i for i, row in enumerate(read_columns(folder, ["image_id", "sha256"])) if wanted(row)), None)
        if place is not None:
            record: ImageRecord = ShardSet(shard_paths(folder))[place]
            pseudo = _pseudo_labels(paths, record.image_id, round) if split == "unlabelled" else ()
            return RunImage(record, split, pseudo)
    return None


def _pseudo_labels(paths: RunPaths, image_id: str, round: int | None) -> tuple[PseudoLabels, ...]:
    """Those of a round, by default of the last finished one that has some; one of each fold that labelled it."""
    rounds = [each for each in paths.finished_rounds() if paths.filter(each).is_file()]
    if round is None and rounds:
        round = rounds[-1]
    if round not in rounds:
        return ()
    config = read_config(paths)
    found = []
    for fold in folds_of(config):
        folder = paths.pseudo(round, fold.suffix)
        if (folder / MANIFEST).is_file() and (record := _row(folder, image_id)) is not None:
            found.append(judged(config, paths, round, fold.suffix, record))
    return tuple(found)


def _row(folder: Path, image_id: str) -> ImageRecord | None:
    ids = [row["image_id"] for row in read_columns(folder, ["image_id"])]
    return ShardSet(shard_paths(folder))[ids.index(image_id)] if image_id in ids else None


def judged(config: Config, paths: RunPaths, round: int, fold: str, record: ImageRecord) -> PseudoLabels:
    """What the filter said of the pseudo-labels of a row of `pseudo`; the round need not be finished."""
    classes, cells = config.data.classes, record.instances
    thresholds = Thresholds.from_json(FilterFile.read(paths.filter(round)).thresholds, classes)
    finished = paths.round_manifest(round)
    teachers_round = RoundManifest.read(finished).teachers_round if finished.is_file() else standing_round(paths)
    assert teachers_round is not None, "a round with pseudo-labels has teachers"
    teachers = RoundManifest.read(paths.round_manifest(teachers_round)).students
    min_votes = min(config.fusion.min_votes, len(teachers))  # as in stages/filter_pseudo_labels
    rows = () if cells is None else tuple(pseudo_rows(cells, thresholds.by_class, min_votes, classes))
    return PseudoLabels(round, fold, cells, rows)
