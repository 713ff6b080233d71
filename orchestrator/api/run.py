"""Defines Run: what a run on disk holds, read only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellsemi.orchestrator.apply.choose_model import of_run
from cellsemi.orchestrator.runs.find_run import find_run
from cellsemi.orchestrator.runs.status import Status, read_status
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.history import read_verdict
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths, read_config

if TYPE_CHECKING:
    import pandas as pd

    from cellsemi.configs.schema import Config
    from cellsemi.orchestrator.api.model import Model
    from cellsemi.orchestrator.apply.recipe import TrainedModel
    from cellsemi.rounds.cells.cutoffs import Cutoffs


@dataclass(frozen=True, slots=True)
class RunModel:
    """Models of a finished round that predict together: its ensemble, or its control. Nothing is loaded yet."""

    trained: TrainedModel

    @property
    def title(self) -> str:
        """What it is, in words."""
        return self.trained.recipe.title

    @property
    def round(self) -> int:
        """The round that trained it."""
        return self.trained.recipe.round

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that `class_id` counts."""
        return self.trained.recipe.classes

    @property
    def members(self) -> tuple[str, ...]:
        """The names of its models."""
        return tuple(member.name for member in self.trained.recipe.members)

    @property
    def cutoffs(self) -> Cutoffs:
        """From which score and area on cells of each class are kept, chosen on validation images."""
        return self.trained.recipe.cutoffs

    def load(self, device: str = "auto") -> Model:
        """The models, ready to predict; see Model."""
        from cellsemi.orchestrator.api.model import Model

        return Model(self.trained, device)

    def __repr__(self) -> str:
        return f"RunModel({self.title}: {', '.join(self.members)})"


class Run:
    """A run on disk, read only: `cellsemi.open_run("runs/demo")`."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths

    @property
    def name(self) -> str:
        """The name of the run."""
        return self._paths.name

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self._paths.root

    @property
    def config(self) -> Config:
        """The settings that it was made with; RunError when its run.yaml is damaged."""
        return read_config(self._paths)

    @property
    def finished_rounds(self) -> tuple[int, ...]:
        """The rounds that are finished, from 0 on."""
        return tuple(self._paths.finished_rounds())

    @property
    def verdict(self) -> str:
        """Whether the rounds helped, in one sentence, as it stands; RunError when no round is finished."""
        return read_verdict(self._paths)

    @property
    def delivered(self) -> RunModel:
        """What the run recommends: the last promoted ensemble, or the control that beat it on validation images.

        RunError when no round is finished.
        """
        return RunModel(of_run(self._paths).model)

    def model(self, round: int | None = None, name: str = ENSEMBLE) -> RunModel:
        """The `ensemble` or the `control` of a finished round, by default the last; RunError when there is none."""
        return RunModel(of_run(self._paths, round, name).model)

    def leaderboard(self) -> pd.DataFrame:
        """One row per model and round; the columns are explained in docs/run-folder.md. RunError before round 0."""
        return leaderboard.frame(self._paths.leaderboard)

    def status(self) -> Status:
        """How far it is, what it waits for, and what went wrong: what `cellsemi status` shows."""
        return read_status(self._paths)

    def __repr__(self) -> str:
        rounds = self.finished_rounds
        return f"Run({self.name}: {f'rounds 0 to {rounds[-1]} finished' if rounds else 'no round finished'})"


def open_run(run: str | Path | None = None) -> Run:
    """A run by its folder, or by its name below ./runs; None: the run worked on last. UsageError when there is none."""
    return Run(find_run(None if run is None else str(run)))
