"""Estimates the quality of the ensemble's masks: the calibrated probability that a mask is right.

`calibrated`: the score, calibrated (`calibrate`; Zadrozny and Elkan 2002). `regressed`: first the IoU of the mask
is predicted from its score, its shape and its neighbours (`iou_regressor`; after Huang et al. 2019, "Mask Scoring
R-CNN"), then the prediction is calibrated in the same way; so a quality means the same with both. The predicted
IoUs that are calibrated, and those that the thresholds are chosen by, come from trees that saw neither the image nor
another of its group; unlabelled images use trees fitted on all. Trees judge what they were fitted on too well, and
thresholds chosen by that judgement promise more than they keep (benchmarks/quality.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import RunError
from cellsemi.configs.rounds import FilterConfig
from cellsemi.rounds.calibration.calibration import FOLDS, Calibration, calibrate, units_of
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import pair_overlap
from cellsemi.rounds.cells.matching import hits
from cellsemi.rounds.pseudo_labels.iou_regressor import Regressor, out_of_fold
from cellsemi.rounds.pseudo_labels.mask_features import Floats, features

Pairs = Sequence[tuple[Instances, Instances]]

MIN_SAMPLES = 200  # four fifths of them fill the eight leaves of a tree, twenty samples each
MIN_IMAGES = FOLDS  # each is left out once


@dataclass(frozen=True, slots=True)
class Quality:
    """A calibration of the score, or with `regressor` of the IoU that it predicts; `notes` describes the fit."""

    calibration: Calibration
    regressor: Regressor | None = None
    notes: tuple[str, ...] = ()

    def apply(self, cells: Instances) -> Instances:
        """Set `quality` of all predictions of one image; they must be all, since some features describe the others."""
        if self.regressor is None:
            return self.calibration.apply(cells)
        predicted = cells.with_(score=self.regressor(features(cells)))
        return cells.with_(quality=self.calibration.apply(predicted).quality)

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same again; of a regressor its samples."""
        return {
            "calibration": self.calibration.to_json(),
            "regressor": None if self.regressor is None else self.regressor.to_json(),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], classes: Sequence[str]) -> Self:
        """The inverse of `to_json`; trees are fitted again. RunError when damaged."""
        try:
            calibration = Calibration.from_json(content["calibration"], classes)
            samples = content["regressor"]
            regressor = None if samples is None else Regressor.from_json(samples)
            return cls(calibration, regressor, tuple(map(str, content["notes"])))
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"the quality is damaged ({error}); remove its round's folder to make it again") from None

    def report(self) -> list[str]:
        """What was fitted, how well it separates right from wrong, and a sentence per class."""
        return [*self.notes, *self.calibration.report()]


def fit_quality(
    validation: Pairs, classes: Sequence[str], config: FilterConfig, groups: Sequence[str] | None = None
) -> tuple[Quality, list[tuple[Instances, Instances]]]:
    """Fit on (fused predictions, truth) of images that the teachers never trained on, as `config.quality` says.

    Returns the quality, and the same pairs with `quality` set as on an image that nothing was fitted on: thresholds are
    to be chosen on these. A curve of the score is the same on all images; the IoU of `regressed` is predicted by trees
    of other folds. `groups` names the group of each image; no fold divides one (`calibration.units_of`).

    `regressed` needs 200 predictions (`config.min_samples` where that is more) on five images; with fewer the score
    is calibrated, and the report says so.
    """
    by_score = calibrate(validation, classes, config.min_samples, groups)
    if config.quality == "calibrated":
        return _by_score(validation, by_score)
    seen = [(predicted, truth) for predicted, truth in validation if len(predicted)]
    count = sum(len(predicted) for predicted, _ in seen)
    enough = max(MIN_SAMPLES, config.min_samples)
    if count < enough or len(seen) < MIN_IMAGES:
        why = f"{count} validation predictions on {len(seen)} images, expected {enough} on {MIN_IMAGES} or more"
        return _by_score(validation, by_score, f"quality is that of the score, nothing was regressed: {why}")
    rows = np.concatenate([features(predicted) for predicted, _ in seen])
    iou = np.concatenate([best_iou(predicted, truth) for predicted, truth in seen])
    counts = [len(predicted) for predicted, _ in validation]
    guessed = out_of_fold(rows, iou, np.repeat(units_of(validation, groups), counts))
    each = np.split(guessed, np.cumsum(counts)[:-1])
    judged = [(predicted.with_(score=own), truth) for (predicted, truth), own in zip(validation, each, strict=True)]
    by_iou = calibrate(judged, classes, config.min_samples, groups)
    quality = Quality(by_iou, Regressor.fit(rows, iou), (_compared(seen, guessed, by_score, by_iou),))
    unseen = [
        (predicted.with_(quality=by_iou.apply(by_trees).quality), truth)
        for (predicted, truth), (by_trees, _) in zip(validation, judged, strict=True)
    ]
    return quality, unseen


def _by_score(
    validation: Pairs, calibration: Calibration, *notes: str
) -> tuple[Quality, list[tuple[Instances, Instances]]]:
    return Quality(calibration, notes=notes), [(calibration.apply(cells), truth) for cells, truth in validation]


def best_iou(predicted: Instances, truth: Instances) -> Floats:
    """The largest mask IoU of each prediction with a true cell of its class, float64 (P,); 0 where there is none."""
    found, _, _ = pair_overlap(predicted, truth)
    _, best = found.where(predicted.class_id[found.rows] == truth.class_id[found.columns]).best()
    return best


def _compared(seen: Pairs, guessed: Floats, by_score: Calibration, by_iou: Calibration) -> str:
    hit = np.concatenate([hits(predicted, truth) for predicted, truth in seen])
    score = np.concatenate([predicted.score for predicted, _ in seen])
    return (
        f"quality from the IoU that trees predict, fitted on {len(hit)} validation predictions on {len(seen)} images; "
        f"on images left out: area under the ROC curve {_auc(hit, score)} by the score, "
        f"{_auc(hit, guessed)} by the predicted IoU; calibration error {_error(by_score)} with the "
        f"score, {_error(by_iou)} with the predicted IoU; below, the predicted IoU as it is -> calibrated"
    )


def _auc(hit: NDArray[np.bool_], confidence: NDArray[Any]) -> str:
    """How often a right mask is above a wrong one."""
    from sklearn.metrics import roc_auc_score

    if hit.all() or not hit.any():
        return "undefined (all alike)"
    return f"{roc_auc_score(hit, confidence):.3f}"


def _error(calibration: Calibration) -> str:
    """The error on images left out, mean over the predictions of all classes."""
    known = [(c.samples, c.ece_after) for c in calibration.curves.values() if c.ece_after is not None]
    total = sum(samples for samples, _ in known)
    return f"{sum(samples * error for samples, error in known) / total:.3f}"
