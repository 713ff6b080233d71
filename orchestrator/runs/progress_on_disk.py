"""The stages of a run that left something on disk, how far each is and how long it took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cellsemi.models.model_files import PROGRESS_FILE
from cellsemi.rounds.store.folds import Fold
from cellsemi.rounds.store.prediction_splits import BY, EVALUATED, UNLABELLED, TRIAL, fusing, images_of
from cellsemi.rounds.store import files
from cellsemi.rounds.store.manifest import COMMITS, MANIFEST, read_manifest
from cellsemi.rounds.store.run import ENSEMBLE, SPLITS, RunPaths

StageState = Literal["done", "begun"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a round that is done or begun; `done` and `total` count `unit`s, None where unknown."""

    round: int
    name: str
    state: StageState
    done: int | None
    total: int | None
    unit: str
    seconds: float | None


def stages(paths: RunPaths, folds: Sequence[Fold]) -> Iterator[Stage]:
    """Every stage that left something on disk, in the order of the work and with the names of the events.

    What teachers said of the unlabelled images lies in their own folder, but is work of the round after.
    """
    for split in SPLITS:
        yield from _shard_stage(0, f"read {split}", paths.split(split), None)
    for fold in folds:
        if fold.val not in SPLITS:
            yield from _shard_stage(0, f"divide into folds: {fold.val}", paths.split(fold.val), None)
    for folder in sorted(paths.root.glob("round-*")):
        round = int(folder.name.removeprefix("round-"))
        for split in (TRIAL, UNLABELLED):
            yield from _predictions(paths, folds, round, round - 1, split)
        pool = _rows(paths.split(UNLABELLED))
        for fold in folds:
            name = f"screen {fold.member('pseudo-labels')}"
            yield from _shard_stage(round, name, paths.pseudo(round, fold.suffix), pool)
        for fold in folds:
            name = f"build {fold.member('the training set')}"
            yield from _shard_stage(round, name, paths.train(round, fold.suffix), None)
        for model in models_of(paths, round):
            yield from _training(round, model, paths.model(round, model))
        sized = {path.name for path in paths.round(round).glob(f"students/*/predictions/val{BY}*")}
        for split in (*EVALUATED, *sorted(sized)):
            yield from _predictions(paths, folds, round, round, split)


def models_of(paths: RunPaths, round: int) -> list[str]:
    """The folders of a round's models by name, with folds one per fold; ensembles last: they are made of the others."""
    names = [path.name for path in (paths.round(round) / "students").glob("*")]
    return sorted(names, key=lambda name: (name.partition(".")[0] == ENSEMBLE, name))


def _predictions(paths: RunPaths, folds: Sequence[Fold], round: int, model_round: int, split: str) -> Iterator[Stage]:
    for model in models_of(paths, model_round) if model_round >= 0 else []:
        own = [fold for fold in folds if model.endswith(fold.suffix)]
        # What has no fold of its own, and every ensemble, is made of several.
        fused = not own or model == own[0].member(ENSEMBLE)
        name = fusing(split, model) if fused else f"predict {split} with {model}"
        images = images_of(paths, own[0], split) if own else paths.split(split)
        yield from _shard_stage(round, name, paths.predictions(model_round, model, split), _rows(images))


def _shard_stage(round: int, name: str, folder: Path, total: int | None) -> Iterator[Stage]:
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        rows = manifest.get("rows")
        yield Stage(round, name, "done", rows, rows, "images", manifest["seconds"])
    elif commits := list((folder / COMMITS).glob("*.json")):
        done = sum(files.read_json(path)["rows"] for path in commits)
        yield Stage(round, name, "begun", done, total, "images", None)


def _training(round: int, model: str, folder: Path) -> Iterator[Stage]:
    name = f"train {model}"
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        steps = manifest.get("steps")
        yield Stage(round, name, "done", steps, steps, "steps", manifest["seconds"])
    elif (folder / PROGRESS_FILE).is_file():
        progress = files.read_json(folder / PROGRESS_FILE)
        yield Stage(round, name, "begun", progress["step"], progress["steps"], "steps", None)


def _rows(folder: Path) -> int | None:
    return read_manifest(folder)["rows"] if (folder / MANIFEST).is_file() else None


def quarantined(paths: RunPaths) -> int | None:
    """How many images could not be used; None while the data set has not been read."""
    if not paths.quarantine.is_file():
        return None
    import pyarrow.parquet as pq

    return int(pq.read_metadata(paths.quarantine).num_rows)
