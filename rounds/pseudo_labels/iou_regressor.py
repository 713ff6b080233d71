"""Predicts how well a mask fits its cell, from its features: a regression of its IoU.

A score is the confidence that there is a cell, less how well it is drawn; Mask Scoring R-CNN (Huang et
al. 2019) predicts the IoU of a mask in a branch of the network. Here small boosted trees do so from fifteen
numbers (`mask_features`), for any model: the few validation images of a run are enough for these.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.calibration.calibration import FOLDS
from cellsemi.rounds.pseudo_labels.mask_features import FEATURES, Floats

PARAMETERS: Mapping[str, int | float] = {
    "max_iter": 60,
    "learning_rate": 0.1,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 20,
    "l2_regularization": 1.0,
    "random_state": 0,
}
MOST_CATEGORIES = 255  # that scikit-learn takes; with more, class ids are taken for numbers


@dataclass(frozen=True, slots=True, eq=False)
class Regressor:
    """Boosted trees, with the samples they were fitted on: `features` float64 (N, 15), `iou` float64 (N,)."""

    features: Floats
    iou: Floats
    parameters: Mapping[str, int | float]
    model: Any

    @classmethod
    def fit(cls, features: Floats, iou: Floats, parameters: Mapping[str, int | float] = PARAMETERS) -> Self:
        """Least squares, never falling with the score, in one thread: the same samples give the same trees."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        classes = FEATURES.index("class_id")
        few = len(np.unique(features[:, classes])) <= MOST_CATEGORIES
        model = HistGradientBoostingRegressor(
            **parameters,
            early_stopping=False,
            monotonic_cst=[int(name == "score") for name in FEATURES],
            categorical_features=[classes] if few else None,
        )
        with _one_thread():
            model.fit(features, iou)
        return cls(features, iou, parameters, model)

    def __call__(self, features: Floats) -> Floats:
        """Predicted IoU in [0, 1], float64 (N,), of N rows of features."""
        if not len(features):
            return np.zeros(0)
        with _one_thread():
            predicted: Floats = np.clip(self.model.predict(features), 0.0, 1.0)
        return predicted

    def to_json(self) -> dict[str, Any]:
        """Its samples and parameters, from which `from_json` fits the same trees again."""
        return {
            "names": list(FEATURES),
            "parameters": dict(self.parameters),
            "features": self.features.tolist(),
            "iou": self.iou.tolist(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. KeyError, TypeError or ValueError when damaged."""
        names, parameters = list(content["names"]), dict(content["parameters"])
        if names != list(FEATURES) or set(parameters) != set(PARAMETERS):
            raise ValueError(f"expected features {FEATURES} and parameters {set(PARAMETERS)}, got others")
        features, iou = np.array(content["features"], np.float64), np.array(content["iou"], np.float64)
        if features.shape != (len(iou), len(names)) or not np.isfinite(features).all() or not np.isfinite(iou).all():
            raise ValueError(f"expected finite samples ({len(iou)}, {len(names)}), got {features.shape}")
        return cls.fit(features, iou, parameters)


def _one_thread() -> AbstractContextManager[Any]:
    """Work of milliseconds: on a busy machine its threads would wait for each other a hundred times as long."""
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[Any] = threadpool_limits(limits=1, user_api="openmp")
    return limits


def out_of_fold(features: Floats, iou: Floats, group: NDArray[np.int64]) -> Floats:
    """Predicted IoU of each sample, float64 (N,), by trees fitted on the samples of the other folds.

    `group` int64 (N,) says of which image, or group of images, a sample is; no group is divided. There must be at least
    two; with fewer than five each is a fold of its own.
    """
    from sklearn.model_selection import GroupKFold

    predicted = np.zeros(len(iou))
    folds = min(FOLDS, len(np.unique(group)))
    for inside, outside in GroupKFold(folds).split(features, groups=group):
        predicted[outside] = Regressor.fit(features[inside], iou[inside])(features[outside])
    return predicted
