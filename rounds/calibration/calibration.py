"""Calibrates scores: from a model's score to the probability that its mask is right, per class.

Isotonic regression (Zadrozny and Elkan 2002; scikit-learn): the better scored is never the less trusted,
and nothing else is assumed. Steps of few samples are pulled in by Laplace's rule, so that three hits out
of three are not taken as certainty. The teachers never trained on these images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import RunError
from cellsemi.rounds.calibration.reliability import Bin, Bins, expected_calibration_error, reliability
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import hits

Kind = Literal["own", "pooled", "identity"]
Floats = NDArray[np.float64]

EPS = 1e-3  # no quality is closer to 0 or 1
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Curve:
    """The calibration of one class: straight lines between knots, level beyond the ends.

    `x` are rising scores, `y` the probabilities there; `samples` and `positives` count the validation
    predictions of this class. `kind` says whose they are: the class's own, those of all classes
    (`pooled`), or none (`identity`: the score stays as it is). The expected calibration error, over ten
    bins, is of the score itself (`ece_before`) and of curves fitted without the image in question
    (`ece_after`); None where there is no prediction, or only one image. `before` and `after` are those bins.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    samples: int
    positives: int
    kind: Kind
    ece_before: float | None
    ece_after: float | None
    before: Bins = ()
    after: Bins = ()

    def __call__(self, score: NDArray[Any]) -> Floats:
        """Probability, float64, of scores of any shape."""
        return np.interp(np.asarray(score, dtype=np.float64), self.x, self.y)


@dataclass(frozen=True, slots=True)
class Calibration:
    """One curve per class, in the order of the class ids."""

    curves: Mapping[str, Curve]

    def apply(self, instances: Instances) -> Instances:
        """Set `quality`, the probability of being a true cell of its class at IoU > .5, from the score."""
        return instances.with_(quality=_apply(list(self.curves.values()), instances.class_id, instances.score))

    def as_scores(self, instances: Instances) -> Instances:
        """Put that probability in the place of the score too, as several models are compared by it."""
        calibrated = self.apply(instances)
        return calibrated.with_(score=calibrated.quality)

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same calibration."""
        return {name: asdict(curve) for name, curve in self.curves.items()}

    @classmethod
    def from_json(cls, content: dict[str, Any], classes: Sequence[str]) -> Self:
        """The inverse of `to_json`; `classes` give the order (JSON keeps none). RunError when damaged."""
        try:
            curves = {}
            for name in classes:
                values = dict(content[name])
                knots = {axis: tuple(values[axis]) for axis in ("x", "y")}
                bins = {when: tuple(Bin(*found) for found in values.get(when, ())) for when in ("before", "after")}
                curves[name] = Curve(**{**values, **knots, **bins})
        except (KeyError, TypeError) as error:
            raise RunError(
                f"the calibration is damaged ({error}); remove its round's folder to make it again"
            ) from None
        return cls(curves)

    def report(self) -> list[str]:
        """One sentence per class."""
        return [_sentence(name, curve) for name, curve in self.curves.items()]


def calibrate(
    validation: Sequence[tuple[Instances, Instances]], classes: Sequence[str], min_samples: int
) -> Calibration:
    """Fit on (fused predictions, truth) of validation images.

    A prediction is right when it is a true cell of its class at IoU > .5, each cell counted once
    (matching.hits). A class with fewer than `min_samples` predictions takes the curve of all classes
    together; with fewer than that in total, scores stay as they are.
    """
    data = _collect(validation)
    fitted = _fit_all(data, len(classes), min_samples)
    held_out = _held_out_quality(data, len(classes), min_samples)
    curves = {}
    for class_id, name in enumerate(classes):
        own = data.class_id == class_id
        x, y, kind = fitted[class_id]
        before = reliability(data.score[own], data.hit[own])
        after = () if held_out is None else reliability(held_out[own], data.hit[own])
        errors = expected_calibration_error(before), expected_calibration_error(after)
        curves[name] = Curve(x, y, int(own.sum()), int(data.hit[own].sum()), kind, *errors, before, after)
    return Calibration(curves)


# --- fitting ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Samples:
    """All validation predictions: class, score, whether right, and the index of the image."""

    class_id: NDArray[np.int32]
    score: Floats
    hit: NDArray[np.bool_]
    image: NDArray[np.int64]

    def where(self, index: NDArray[np.bool_]) -> _Samples:
        return _Samples(self.class_id[index], self.score[index], self.hit[index], self.image[index])


Knots = tuple[tuple[float, ...], tuple[float, ...], Kind]
IDENTITY: Knots = ((0.0, 1.0), (0.0, 1.0), "identity")


def _collect(validation: Sequence[tuple[Instances, Instances]]) -> _Samples:
    predictions = [predicted for predicted, _ in validation]
    if not predictions:
        return _Samples(np.zeros(0, np.int32), np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64))
    return _Samples(
        class_id=np.concatenate([p.class_id for p in predictions]),
        score=np.concatenate([p.score for p in predictions]).astype(np.float64),
        hit=np.concatenate([hits(predicted, truth) for predicted, truth in validation]),
        image=np.repeat(np.arange(len(predictions)), [len(p) for p in predictions]),
    )


def _fit_all(data: _Samples, n_classes: int, min_samples: int) -> list[Knots]:
    if len(data.score) < min_samples:
        return [IDENTITY] * n_classes
    pooled = _isotonic(data.score, data.hit)
    result: list[Knots] = []
    for class_id in range(n_classes):
        own = data.where(data.class_id == class_id)
        enough = len(own.score) >= min_samples
        result.append((*_isotonic(own.score, own.hit), "own") if enough else (*pooled, "pooled"))
    return result


def _isotonic(score: Floats, hit: NDArray[np.bool_]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots of the shrunken step function: each step level from its lowest to its highest score."""
    from sklearn.isotonic import IsotonicRegression

    order = np.argsort(score, kind="stable")
    score, hit = score[order], hit[order]
    fitted = IsotonicRegression().fit_transform(score, hit.astype(np.float64))
    starts = np.flatnonzero(np.concatenate([[True], np.diff(fitted) > 1e-12]))
    ends = np.concatenate([starts[1:], [len(score)]]) - 1
    n = ends - starts + 1
    level = (np.add.reduceat(hit.astype(np.float64), starts) + 1) / (n + 2)
    # Shrinking pulls small steps more than large ones: put them back in order.
    level = IsotonicRegression().fit_transform(np.arange(len(n)), level, sample_weight=n)
    level = np.clip(level, EPS, 1 - EPS)
    x = np.stack([score[starts], score[ends]], axis=1).ravel()
    distinct = np.concatenate([[True], np.diff(x) > 0])
    return tuple(x[distinct].tolist()), tuple(np.repeat(level, 2)[distinct].tolist())


def _apply(curves: Sequence[Curve], class_id: NDArray[np.int32], score: NDArray[Any]) -> Floats:
    result = np.zeros(len(score))
    for c, curve in enumerate(curves):
        own = class_id == c
        result[own] = curve(score[own])
    if len(class_id) and class_id.max() >= len(curves):
        raise ValueError(f"class_id: expected values below {len(curves)}, got {class_id.max()}")
    return result


# --- how well it fits ---------------------------------------------------------------------------------


def _held_out_quality(data: _Samples, n_classes: int, min_samples: int) -> Floats | None:
    """Quality of each sample from curves fitted on the images of the other folds; None for a single image."""
    if len(np.unique(data.image)) < 2:
        return None
    quality = np.zeros(len(data.score))
    fold = np.unique(data.image, return_inverse=True)[1] % FOLDS
    for k in np.unique(fold):
        fitted = _fit_all(data.where(fold != k), n_classes, min_samples)
        curves = [Curve(x, y, 0, 0, kind, None, None) for x, y, kind in fitted]
        quality[fold == k] = _apply(curves, data.class_id[fold == k], data.score[fold == k])
    return quality


def _sentence(name: str, curve: Curve) -> str:
    seen = f"{curve.samples} validation predictions, {curve.positives} right"
    how = {
        "own": "calibrated on its own predictions",
        "pooled": "too few predictions of its own: calibrated on those of all classes",
        "identity": "too few predictions in all: its scores are taken as they are",
    }[curve.kind]
    errors = ""
    if curve.ece_before is not None and curve.ece_after is not None and curve.kind != "identity":
        errors = f"; calibration error {curve.ece_before:.3f} -> {curve.ece_after:.3f} on images left out"
    return f"{name}: {seen}; {how}{errors}"
