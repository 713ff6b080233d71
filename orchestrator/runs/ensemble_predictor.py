"""Predicts images with an ensemble of a run, as the run itself predicted its test images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cellsemi.models.base import Image, Predictor
from cellsemi.models.registry import load_predictor
from cellsemi.orchestrator.stages.choose_cell_probability import resolved
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.ensemble import Ensemble
from cellsemi.rounds.pseudo_labels.fusion import fuse
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.run import RunPaths, read_config


class EnsemblePredictor:
    """The loaded models of an ensemble; see models.base.Predictor.

    `warnings` counts what its models report, a sentence each.
    """

    def __init__(self, ensemble: Ensemble, paths: RunPaths, device: str = "auto") -> None:
        """Load every model of the ensemble; ModelError when a file of one is missing or altered."""
        self.ensemble = ensemble
        config = read_config(paths)
        self._calibrations = ensemble.calibrations()
        self._predictors: dict[str, tuple[str, Predictor]] = {}
        for fold in ensemble.folds:
            for name in ensemble.members:
                folder = paths.model(ensemble.round, fold.member(name))
                inference = resolved(read_fit(folder), config.inference_of(config.model_called(name)))
                self._predictors[fold.member(name)] = (name, load_predictor(folder, inference, device))

    @property
    def warnings(self) -> Counter[str]:
        """What the models report, summed over them."""
        return sum((predictor.warnings for _, predictor in self._predictors.values()), Counter())

    def predict(self, images: Sequence[Image], scale: float = 1.0) -> list[Instances]:
        """Cells of each (H, W) or (H, W, 3) image of any size, of every score; see models.base.Predictor."""
        each = {member: predictor.predict(images, scale) for member, (_, predictor) in self._predictors.items()}
        return [self._together({member: found[i] for member, found in each.items()}) for i in range(len(images))]

    def predict_cells(self, images: Sequence[Image]) -> list[Instances]:
        """Cells of each image with at least the score that was chosen on validation images."""
        threshold = self.ensemble.score_threshold or 0.0
        return [found.select(found.score >= threshold) for found in self.predict(images)]

    def _together(self, found: dict[str, Instances]) -> Instances:
        """The cells of one image, as the run fuses them."""
        if not self.ensemble.is_fused:
            (cells,) = found.values()
            return cells
        calibrated = {member: self._calibrated(member, cells) for member, cells in found.items()}
        return fuse(calibrated, self.ensemble.fusion, self.ensemble.one_class_per_image)

    def _calibrated(self, member: str, cells: Instances) -> Instances:
        calibration = self._calibrations.get(self._predictors[member][0])
        return cells if calibration is None else calibration.as_scores(cells)
