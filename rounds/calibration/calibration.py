"""Calibrates scores: from a model's score to the probability that its mask is right, per class.

Three curves are tried, and the one that predicts images that were left out best is taken (logarithmic loss; Good 1952):
the score as it is (`identity`); the score times a factor, such that its mean is the share of all masks that is right
(`rate`); and isotonic regression (Zadrozny and Elkan 2002; scikit-learn), for which the better scored is never less
trusted and nothing else is assumed (`own`, or `pooled` over all classes). A curve with more freedom must win: a
teacher whose scores are good already keeps them. Steps and rates of few samples are pulled in by Laplace's rule, so
that three hits out of three are not taken as certainty. The teachers never trained on these images.
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

Kind = Literal["own", "pooled", "rate", "identity"]
Floats = NDArray[np.float64]

EPS = 1e-3  # no quality is closer to 0 or 1
FOLDS = 5
NIL = 0.005  # a precision or a recall below this is none: .00 to two digits


@dataclass(frozen=True, slots=True)
class Curve:
    """The calibration of one class: straight lines between knots, level above the last, through 0 below the first.

    `x` are rising scores, `y` the probabilities there; `samples` and `positives` count the validation
    predictions of this class. Below the lowest score that was seen nothing is known: there the probability falls to 0
    with the score. `kind` says what the curve is: that of the class's own predictions, that of all classes (`pooled`),
    a factor (`rate`), or the score as it is (`identity`). The expected calibration error, over ten
    bins, is of the score itself (`ece_before`) and of curves fitted without the image in question
    (`ece_after`); None where there is no prediction, or only one image. `before` and `after` are those bins.
    `truths` counts the true cells of the class on those images.
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
    truths: int = 0

    def __call__(self, score: NDArray[Any]) -> Floats:
        """Probability, float64, of scores of any shape."""
        score = np.asarray(score, dtype=np.float64)
        found: Floats = np.interp(score, self.x, self.y)
        if self.x[0] > 0:
            found = np.where(score < self.x[0], found * score / self.x[0], found)
        return found


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

    @property
    def recalls(self) -> tuple[float, ...]:
        """The share of the true cells of each class that is found, in the order of the class ids.

        Few cells of a class say little: two more stand for the rate of all classes, as in Laplace's rule.
        """
        found, there = self._totals()
        pooled = (found + 1) / (there + 2)
        return tuple((each.positives + 2 * pooled) / (each.truths + 2) for each in self.curves.values())

    @property
    def nothing(self) -> str | None:
        """Why the predictions are of no use, in words; None where some are right. See NIL."""
        found, there = self._totals()
        samples = sum(curve.samples for curve in self.curves.values())
        if not there:
            return "it was not compared with a single true cell"
        if samples and found / samples >= NIL and found / there >= NIL:
            return None
        return f"{found} of its {samples} predictions are right, of {there} cells"

    def _totals(self) -> tuple[int, int]:
        """The true cells that were found, and those that there are, of all classes."""
        curves = self.curves.values()
        return sum(curve.positives for curve in curves), sum(curve.truths for curve in curves)

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
    validation: Sequence[tuple[Instances, Instances]],
    classes: Sequence[str],
    min_samples: int,
    groups: Sequence[str] | None = None,
) -> Calibration:
    """Fit on (fused predictions, truth) of validation images.

    A prediction is right when it is a true cell of its class at IoU > .5, each cell counted once
    (matching.hits). Isotonic curves need `min_samples` predictions, of the class (`own`) or of all (`pooled`). With
    predictions on a single image none can be left out: then `rate` is taken; without any, `identity`. `groups` names
    the group (well, plate, sample) of each image: those of one are left out together (`units_of`).
    """
    data = _collect(validation, groups)
    kinds = _best_kinds(data, len(classes), min_samples)
    fitted = _fit_kinds(data, kinds)
    held_out = _held_out_quality(data, kinds)
    curves = {}
    truths = sum((np.bincount(t.class_id, minlength=len(classes)) for _, t in validation), np.zeros(len(classes), int))
    for class_id, name in enumerate(classes):
        own = data.class_id == class_id
        x, y, kind = fitted[class_id]
        before = reliability(data.score[own], data.hit[own])
        after = () if held_out is None else reliability(held_out[own], data.hit[own])
        errors = expected_calibration_error(before), expected_calibration_error(after)
        curves[name] = Curve(
            x, y, int(own.sum()), int(data.hit[own].sum()), kind, *errors, before, after, int(truths[class_id])
        )
    return Calibration(curves)


# --- fitting ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Samples:
    """All validation predictions: class, score, whether right, and the index of the image or its group."""

    class_id: NDArray[np.int32]
    score: Floats
    hit: NDArray[np.bool_]
    unit: NDArray[np.int64]

    def where(self, index: NDArray[np.bool_]) -> _Samples:
        return _Samples(self.class_id[index], self.score[index], self.hit[index], self.unit[index])


Knots = tuple[tuple[float, ...], tuple[float, ...], Kind]
IDENTITY: Knots = ((0.0, 1.0), (0.0, 1.0), "identity")


def units_of(validation: Sequence[tuple[Instances, Instances]], groups: Sequence[str] | None) -> NDArray[np.int64]:
    """What is left out together, int64 (images,): a number per group, in the order in which they come first.

    A number per image where there are no groups, or where all predictions are of one: then nothing is left to fit on.
    """
    if groups is not None:
        place = {name: number for number, name in enumerate(dict.fromkeys(groups))}
        if len({name for name, (predicted, _) in zip(groups, validation, strict=True) if len(predicted)}) > 1:
            return np.array([place[name] for name in groups], np.int64)
    return np.arange(len(validation))


def _collect(validation: Sequence[tuple[Instances, Instances]], groups: Sequence[str] | None) -> _Samples:
    predictions = [predicted for predicted, _ in validation]
    if not predictions:
        return _Samples(np.zeros(0, np.int32), np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64))
    return _Samples(
        class_id=np.concatenate([p.class_id for p in predictions]),
        score=np.concatenate([p.score for p in predictions]).astype(np.float64),
        hit=np.concatenate([hits(predicted, truth) for predicted, truth in validation]),
        unit=np.repeat(units_of(validation, groups), [len(p) for p in predictions]),
    )


def _fit_kinds(data: _Samples, kinds: Sequence[Kind]) -> list[Knots]:
    """The curve of each class, of the kind that is given for it."""
    return [_fit(data, class_id, kind) for class_id, kind in enumerate(kinds)]


def _fit(data: _Samples, class_id: int, kind: Kind) -> Knots:
    if kind == "identity":
        return IDENTITY
    if kind == "rate":
        return (*_rate(data), "rate")
    samples = data.where(data.class_id == class_id) if kind == "own" else data
    if not len(samples.score):  # no other image holds the class
        return IDENTITY
    return (*_isotonic(samples.score, samples.hit), kind)


def _rate(data: _Samples) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots of the score times a factor, level at 1 - EPS: its mean becomes the share of right masks, by Laplace."""
    mean = float(data.score.mean()) if len(data.score) else 0.0
    if mean <= 0:
        return IDENTITY[0], IDENTITY[1]
    factor = (int(data.hit.sum()) + 1) / (len(data.hit) + 2) / mean
    top = 1 - EPS
    return ((0.0, 1.0), (0.0, factor)) if factor <= top else ((0.0, top / factor, 1.0), (0.0, top, top))


def _best_kinds(data: _Samples, n_classes: int, min_samples: int) -> list[Kind]:
    """The kind of curve of each class with the smallest loss on images left out; of equal ones the plainest."""
    several, enough = len(np.unique(data.unit)) > 1, len(data.score) >= min_samples
    found: list[Kind] = []
    for class_id in range(n_classes):
        own = data.class_id == class_id
        if not (several and own.any()):  # nothing of this class can be left out
            found.append("identity" if not len(data.score) else "pooled" if several and enough else "rate")
            continue
        tried: list[Kind] = ["identity", "rate"]
        tried += ["pooled"] if enough and not own.all() else []
        tried += ["own"] if int(own.sum()) >= min_samples else []
        losses = {kind: _loss(_held_out(data, class_id, kind), data.hit[own]) for kind in tried}
        found.append(min(losses, key=lambda kind: round(losses[kind], 6)))
    return found


def _loss(quality: Floats, hit: NDArray[np.bool_]) -> float:
    """The mean logarithmic loss of qualities in [0, 1]."""
    quality = np.clip(quality, EPS, 1 - EPS)
    return float(-np.log(np.where(hit, quality, 1 - quality)).mean())


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


def _held_out_quality(data: _Samples, kinds: Sequence[Kind]) -> Floats | None:
    """Quality of each sample from curves fitted on the images of the other folds; None for a single image."""
    if len(np.unique(data.unit)) < 2:
        return None
    quality = np.zeros(len(data.score))
    for class_id, kind in enumerate(kinds):
        quality[data.class_id == class_id] = _held_out(data, class_id, kind)
    return quality


def _held_out(data: _Samples, class_id: int, kind: Kind) -> Floats:
    """Quality of each sample of a class, from its curve fitted on the images of the other folds."""
    fold = np.unique(data.unit, return_inverse=True)[1] % FOLDS
    own = data.class_id == class_id
    quality = np.zeros(len(data.score))
    for k in np.unique(fold[own]):
        x, y, found = _fit(data.where(fold != k), class_id, kind) if (fold != k).any() else IDENTITY
        here = own & (fold == k)
        quality[here] = Curve(x, y, 0, 0, found, None, None)(data.score[here])
    held_out: Floats = quality[own]
    return held_out


def _sentence(name: str, curve: Curve) -> str:
    seen = f"{curve.samples} validation predictions, {curve.positives} right"
    how = {
        "own": "calibrated on its own predictions",
        "pooled": "calibrated on the predictions of all classes",
        "rate": "its scores are scaled to the share that is right in all classes",
        "identity": "its scores are taken as they are: no curve predicts images left out better",
    }[curve.kind]
    errors = ""
    if curve.ece_before is not None and curve.ece_after is not None and curve.kind != "identity":
        errors = f"; calibration error {curve.ece_before:.3f} -> {curve.ece_after:.3f} on images left out"
    return f"{name}: {seen}; {how}{errors}"
