"""Describes how some trained models predict together: everything that was chosen for them, in one value.

A run keeps it in several files; an exported model keeps it in one, RECIPE_FILE, with its members beside it:

    FOLDER/recipe.json
    FOLDER/members/NAME/model.json, model.safetensors
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import JsonValue

from cellsemi.configs.errors import ModelError, RunError
from cellsemi.configs.rounds import FusionConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.model_files import read_model_file
from cellsemi.models.validation.choose_probabilities import resolved, without_background
from cellsemi.rounds.calibration.calibration import Calibration
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.evaluation.ensemble import CalibrationFile, Ensemble
from cellsemi.rounds.store import files
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.run import RunPaths, is_control, read_config

RECIPE_FILE = "recipe.json"
MEMBERS = "members"


class MemberRecipe(OnDisk):
    """One trained model: the name of its folder, how it predicts, the calibration of its scores (None: as they are).

    `inference` has the cell probability that was chosen for it.
    """

    name: str
    inference: InferenceConfig
    calibration: dict[str, JsonValue] | None = None  # Calibration.to_json()


class Recipe(OnDisk):
    """What several models, or a single one, need to predict as they did in their run.

    `fusion` is None for a model that predicts alone. `cutoffs` were chosen on validation images: cells below
    them are left out unless the caller asks for them. Images with more than `max_pixels` are refused unread.
    """

    run: str
    round: int
    model: str  # ENSEMBLE or a control
    classes: tuple[str, ...]
    one_class_per_image: bool
    members: tuple[MemberRecipe, ...]
    fusion: FusionConfig | None
    cutoffs: Cutoffs
    max_pixels: int

    @property
    def title(self) -> str:
        """What it is, in words."""
        what = "the supervised control" if is_control(self.model) else f"the {self.model}"
        return f"{what} of round {self.round} of {self.run}"

    def calibrations(self) -> dict[str, Calibration]:
        """The calibration of each member that has one, by the name of its folder."""
        return {
            member.name: Calibration.from_json(member.calibration, self.classes)
            for member in self.members
            if member.calibration is not None
        }

    def write(self, path: Path) -> None:
        """Write the file with every default, which another version may have changed."""
        files.write_json(path, self.model_dump(mode="json"))


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A recipe, and the folder that holds a folder for each of its members."""

    recipe: Recipe
    members: Path

    @classmethod
    def of_run(cls, paths: RunPaths, ensemble: Ensemble) -> Self:
        """An evaluated ensemble of a run; RunError when a file of it is missing."""
        config = read_config(paths)
        calibrations = CalibrationFile.of(ensemble.calibration_file) if ensemble.is_fused else {}
        members = []
        for fold in ensemble.folds:
            for name in ensemble.members:
                folder = paths.model(ensemble.round, fold.member(name))
                stated = config.inference_of(config.model_called(name, ensemble.round))
                inference = without_background(resolved(read_fit(folder), stated))
                calibration = calibrations.get(name)
                members.append(
                    MemberRecipe.model_validate(
                        {"name": fold.member(name), "inference": inference, "calibration": calibration}
                    )
                )
        recipe = Recipe(
            run=paths.name,
            round=ensemble.round,
            model=ensemble.name,
            classes=ensemble.classes,
            one_class_per_image=ensemble.one_class_per_image,
            members=tuple(members),
            fusion=ensemble.fusion if ensemble.is_fused else None,
            cutoffs=ensemble.cutoffs or Cutoffs.same(0.0, len(ensemble.classes)),
            max_pixels=config.data.max_pixels,
        )
        return cls(recipe, paths.model(ensemble.round, members[0].name).parent)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """An exported model; ModelError when the folder is none, or of another version."""
        path = folder / RECIPE_FILE
        if not path.is_file():
            raise ModelError(
                f"{folder}: no exported model (no {RECIPE_FILE}); `cellsemi model export RUN --out {folder}` makes one"
            )
        try:
            return cls(Recipe.read(path), folder / MEMBERS)
        except RunError as error:
            raise ModelError(f"{error}; export the model anew") from None

    def folder(self, member: str) -> Path:
        """The folder of a member."""
        return self.members / member

    @property
    def fingerprint(self) -> str:
        """Changes when its predictions would: the recipe, and each member's weights (their sha256), scale and size."""
        about = [read_model_file(self.folder(member.name)) for member in self.recipe.members]
        members = [
            [member.weights_sha256, member.cell_size.scale, *([size] if (size := member.cell_size.resize_px) else [])]
            for member in about
        ]
        return files.sha256_json([self.recipe.model_dump(mode="json", exclude={"run"}), members])
