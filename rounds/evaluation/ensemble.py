"""Describes an ensemble: all that it takes to predict as the models of a round do together, in one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cellsemi.configs.rounds import FusionConfig
from cellsemi.configs.schema import Config
from cellsemi.rounds.calibration.calibration import Calibration
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.evaluation.evaluation_table import Evaluation, find, read_evaluations
from cellsemi.rounds.evaluation.history import RoundManifest, delivered_model, standing_round
from cellsemi.rounds.store.folds import Fold, folds_of
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths, read_config


class CalibrationFile(OnDisk):
    """The calibration of each model of a round, and the split of the images that it was fitted on."""

    split: str
    members: dict[str, dict[str, object]]  # Calibration.to_json() by model

    @classmethod
    def of(cls, path: Path | None) -> Mapping[str, dict[str, object]]:
        """The calibrations in a file by model; none where there is no file: the scores stay as they are."""
        return cls.read(path).members if path is not None and path.is_file() else {}


def read_calibrations(path: Path | None, classes: Sequence[str]) -> dict[str, Calibration]:
    """The calibration of each model in a file; none where there is no file."""
    return {name: Calibration.from_json(content, classes) for name, content in CalibrationFile.of(path).items()}


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The models of a round that predict together, or one of them alone, such as its control.

    `members` are names of models; with `folds` each has a model in every fold. `calibration_file` holds the
    calibration of each member's scores, fitted before they are fused; None: the scores are taken as they are.
    `cutoffs` were chosen on validation images, as was the cell probability of each flow model in
    `cell_probabilities` (by the name of its folder). Both are None or empty before the round is evaluated.
    """

    round: int
    name: str  # ENSEMBLE, or that of one model: a control or a student
    members: tuple[str, ...]
    folds: tuple[Fold, ...]
    fusion: FusionConfig
    classes: tuple[str, ...]
    one_class_per_image: bool
    calibration_file: Path | None = None
    steps: int = 0  # of the first member with all its ancestors
    cutoffs: Cutoffs | None = None
    cell_probabilities: Mapping[str, float] = field(default_factory=dict)

    @property
    def member_names(self) -> tuple[str, ...]:
        """The folders of its models: each member in each fold, fold by fold."""
        return tuple(fold.member(name) for fold in self.folds for name in self.members)

    @property
    def is_fused(self) -> bool:
        """Whether its cells are fused: a model alone is not, unless there is one of it in each fold."""
        return self.name == ENSEMBLE or len(self.folds) > 1

    def calibrations(self) -> dict[str, Calibration]:
        """The calibration of each member that has one."""
        return read_calibrations(self.calibration_file, self.classes)

    def evaluation(self, paths: RunPaths, split: str = "val") -> Evaluation:
        """Its evaluation on a split; RunError when there is none."""
        return find(read_evaluations(paths.evaluation(self.round), self.classes), self.name, split)


def new_ensemble(config: Config, round: int, members: tuple[str, ...], calibration_file: Path | None) -> Ensemble:
    """An ensemble of models that are trained and not evaluated together yet."""
    return Ensemble(
        round=round,
        name=ENSEMBLE,
        members=members,
        folds=folds_of(config),
        fusion=config.fusion,
        classes=config.data.classes,
        one_class_per_image=config.data.one_class_per_image,
        calibration_file=calibration_file,
    )


def read_ensemble(paths: RunPaths, round: int, name: str = ENSEMBLE) -> Ensemble:
    """The ensemble of a finished round, or its control or another of its models alone (`name`).

    RunError when the round is not finished or has no such model.
    """
    config = read_config(paths)
    manifest = RoundManifest.read(paths.round_manifest(round))
    members = manifest.students if name == ENSEMBLE else (name,)
    calibrated = paths.calibration(round) if name == ENSEMBLE else None
    found = new_ensemble(config, round, members, calibrated if calibrated and calibrated.is_file() else None)
    fits = {member: read_fit(paths.model(round, member)) for member in found.member_names}
    chosen = {member: fit.cell_probability.chosen for member, fit in fits.items() if fit.cell_probability}
    evaluations = read_evaluations(paths.evaluation(round), found.classes)
    return replace(
        found,
        name=name,
        steps=manifest.steps,
        cutoffs=find(evaluations, name, "val").cutoffs,
        cell_probabilities=chosen,
    )


def standing(paths: RunPaths) -> Ensemble:
    """The ensemble that teaches now: that of the last promoted round."""
    return read_ensemble(paths, standing_round(paths))


def delivered(paths: RunPaths) -> Ensemble:
    """What the run recommends: the ensemble of the last promoted round, or the control that beat it."""
    return read_ensemble(paths, *delivered_model(paths))
