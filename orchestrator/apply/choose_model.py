"""Finds the trained model that a command names: what a run recommends, one of its models, or an exported folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cellsemi.configs.errors import RunError, UsageError
from cellsemi.orchestrator.apply.known import known_folders
from cellsemi.orchestrator.apply.recipe import TrainedModel
from cellsemi.orchestrator.runs.find_run import find_run
from cellsemi.rounds.evaluation.ensemble import Ensemble, delivered, read_ensemble
from cellsemi.rounds.evaluation.seen import SEEN_FILE, SeenImages
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths, read_config


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """A trained model, the images that its run has used, and what the run has predicted with it already."""

    model: TrainedModel
    seen: SeenImages
    known: tuple[Path, ...] = ()


def choose_model(run: str | None, folder: Path | None) -> ChosenModel:
    """The exported model in `folder`, else what a run recommends (default: the run worked on last).

    UsageError when both are named, or there is no such run; RunError when no round of it is finished.
    """
    if folder is not None:
        if run is not None:
            raise UsageError("--run and --model both name a model; give one of them")
        return ChosenModel(TrainedModel.read(folder), SeenImages.read(folder / SEEN_FILE))
    paths = find_run(run)
    return of_run(paths)


def ensemble_of(paths: RunPaths, round: int | None = None, name: str | None = None) -> Ensemble:
    """What a run recommends, or (`name`) the ensemble, the control or one model of a round, by default the last.

    RunError when no round is finished, or the round has no such model.
    """
    finished = paths.finished_rounds()
    if not finished:
        raise RunError(f"{paths.root}: no round is finished yet; `cellsemi status {paths.name}` says how far it is")
    if round is None and name is None:
        return delivered(paths)
    return read_ensemble(paths, finished[-1] if round is None else round, name or ENSEMBLE)


def of_run(paths: RunPaths, round: int | None = None, name: str | None = None) -> ChosenModel:
    """What a run recommends, or the ensemble, the control or one model of a round; see `ensemble_of`."""
    ensemble = ensemble_of(paths, round, name)
    folders = known_folders(paths, ensemble, read_config(paths))
    return ChosenModel(TrainedModel.of_run(paths, ensemble), SeenImages.of_run(paths), tuple(folders))
