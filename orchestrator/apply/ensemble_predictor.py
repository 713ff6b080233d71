"""Predicts images with the models of a recipe, as their run predicted its test images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cellsemi.models.base import Image, Predictor
from cellsemi.models.registry import load_predictor
from cellsemi.orchestrator.apply.recipe import TrainedModel
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.pseudo_labels.fusion import fuse


class EnsemblePredictor:
    """The loaded members of a trained model; see models.base.Predictor.

    `warnings` counts what its members report, a sentence each.
    """

    def __init__(self, model: TrainedModel, device: str = "auto") -> None:
        """Load every member; ModelError when a file of one is missing or altered, or a package is."""
        self.recipe = model.recipe
        self._calibrations = self.recipe.calibrations()
        self._predictors: dict[str, Predictor] = {
            member.name: load_predictor(model.folder(member.name), member.inference, device)
            for member in self.recipe.members
        }

    @property
    def warnings(self) -> Counter[str]:
        """What the members report, summed over them."""
        return sum((predictor.warnings for predictor in self._predictors.values()), Counter())

    def clear_warnings(self) -> None:
        """Forget what was reported so far."""
        for predictor in self._predictors.values():
            predictor.warnings.clear()

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        """Cells of each (H, W) or (H, W, 3) image of any size, of every score; see models.base.Predictor."""
        each = {name: predictor.predict(images, scale) for name, predictor in self._predictors.items()}
        return [self._together({name: found[i] for name, found in each.items()}) for i in range(len(images))]

    def _together(self, found: dict[str, Instances]) -> Instances:
        """The cells of one image, as the run fuses them."""
        if self.recipe.fusion is None:
            (cells,) = found.values()
            return cells
        calibrated = {name: self._calibrated(name, cells) for name, cells in found.items()}
        recalls = {name: found.recalls for name, found in self._calibrations.items()}
        return fuse(calibrated, self.recipe.fusion, self.recipe.one_class_per_image, recalls)

    def _calibrated(self, name: str, cells: Instances) -> Instances:
        calibration = self._calibrations.get(name)
        return cells if calibration is None else calibration.as_scores(cells)
