"""Predicts images with the models of a recipe, as their run predicted its test images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cellsemi.models.base import Image, Predictor
from cellsemi.models.explanation import Explanation, explanation_of
from cellsemi.models.registry import load_predictor
from cellsemi.orchestrator.apply.recipe import TrainedModel
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.pseudo_labels.fusion import Member, fuse_with_members


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What each member says of an image, its cells with `calibrated` scores, and the `cells` that become of them.

    `made_of` names the cells of the members that each of `cells` was made of.
    """

    members: Mapping[str, Explanation]
    calibrated: Mapping[str, Instances]
    cells: Instances
    made_of: Sequence[tuple[Member, ...]]


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

    def explain(self, image: Image, scale: float = 1.0) -> Answer:
        """The cells of one image, as `predict` finds them, and what every member computed for them."""
        return self._answer({name: explanation_of(each, image, scale) for name, each in self._predictors.items()})

    def predict_each(self, image: Image, scale: float = 1.0) -> Answer:
        """The same without what the networks computed, as fast as `predict`: the cells, and those of every member."""
        return self._answer(
            {name: Explanation(each.predict([image], scale)[0]) for name, each in self._predictors.items()}
        )

    def _answer(self, members: Mapping[str, Explanation]) -> Answer:
        found = {name: each.cells for name, each in members.items()}
        cells, made_of = self._fused(found)
        calibrated = {name: self._calibrated(name, each) for name, each in found.items()}
        return Answer(members, calibrated, cells, made_of)

    def _together(self, found: dict[str, Instances]) -> Instances:
        """The cells of one image, as the run fuses them."""
        return self._fused(found)[0]

    def _fused(self, found: Mapping[str, Instances]) -> tuple[Instances, list[tuple[Member, ...]]]:
        """The same, and the cells of the members that each was made of."""
        if self.recipe.fusion is None:
            ((name, cells),) = found.items()
            return cells, [((name, i),) for i in range(len(cells))]
        calibrated = {name: self._calibrated(name, cells) for name, cells in found.items()}
        recalls = {name: found.recalls for name, found in self._calibrations.items()}
        return fuse_with_members(calibrated, self.recipe.fusion, self.recipe.one_class_per_image, recalls)

    def _calibrated(self, name: str, cells: Instances) -> Instances:
        calibration = self._calibrations.get(name)
        return cells if calibration is None else calibration.as_scores(cells)
