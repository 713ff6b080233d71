"""Sweeps over all confidences: the objective on the kept out-of-sample predictions, and how many they are.

Overlaps are computed once. For a filter of areas the predictions that fit are added by falling confidence to a
largest one-to-one matching (matching.gains), which gives the matches of every kept set at once: P predictions
cost one sort and one pass, not P evaluations. A match is always one within the class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.rounds import AUTO, FilterConfig
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import gains, overlap
from cellsemi.rounds.cells.overlap import HALF, TWENTIETHS
from cellsemi.rounds.evaluation.metrics import Tally

EQUAL_OBJECTIVES = 1e-9  # objectives closer than this are equal; sums of floats differ in the last digits

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The P predictions of all out-of-sample images, best first: by falling quality, then score.

    `class_id` int32, `quality` float32, `area` int64 and `image` int64 are (P,). `true_class` int32 and
    `true_image` int64 are (T,), of every true cell. `pair_true`, `pair_predicted` and `pair_level` int64 (M,)
    are the pairs of one class and one image with IoU > .5, image by image: the two indices, and above how
    many of the ten thresholds .50, .55 ... .95 the IoU is.
    """

    images: int
    class_id: NDArray[np.int32]
    quality: NDArray[np.float32]
    area: Ints
    image: Ints
    true_class: NDArray[np.int32]
    true_image: Ints
    pair_true: Ints
    pair_predicted: Ints
    pair_level: Ints


@dataclass(frozen=True, slots=True)
class SweepResult:
    """An accept and a reject threshold, and what they give on the out-of-sample images.

    `below` is the highest confidence of a prediction that is not kept, 0 where there is none. `value` is the
    objective; `kept` predictions are accepted, of which `hit` are true cells at IoU > .5.
    `sure` is False when no confidence reaches `min_precision`. `counted` predictions have at least the reject
    limit.
    """

    accept: float
    below: float
    reject: float
    value: float
    kept: int
    hit: int
    predictions: int
    truths: int
    sure: bool
    counted: int


def collect(validation: Sequence[tuple[Instances, Instances]]) -> Samples:
    """Samples of (calibrated predictions, truth) of each image."""
    none = Instances.empty(1, 1)  # gives empty columns their dtype
    predictions, truths = [none, *(p for p, _ in validation)], [none, *(t for _, t in validation)]
    pairs = _pairs(predictions, truths)
    quality = np.concatenate([p.quality for p in predictions])
    order = np.lexsort((-np.concatenate([p.score for p in predictions]), -quality))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    image = np.arange(len(predictions)) - 1
    return Samples(
        images=len(validation),
        class_id=np.concatenate([p.class_id for p in predictions])[order],
        quality=quality[order],
        area=np.concatenate([p.area for p in predictions])[order],
        image=np.repeat(image, [len(p) for p in predictions])[order],
        true_class=np.concatenate([t.class_id for t in truths]),
        true_image=np.repeat(image, [len(t) for t in truths]),
        pair_true=pairs[0],
        pair_predicted=place[pairs[1]],
        pair_level=pairs[2],
    )


def sweep(samples: Samples, class_id: int | None, low: int, high: int | None, config: FilterConfig) -> SweepResult:
    """The best accept and reject threshold of a class (None: all together) when areas `low` to `high` are accepted.

    Every distinct confidence of at least `min_precision` is a candidate. It keeps the predictions that are as
    confident and whose area fits; the objective of exactly this kept set is

    - `f-beta`: of its matches at IoU > .5 within the class; recall counts all true cells.
    - `map`: the score of rounds/evaluation/metrics.py with matches within the class, meant over all images; an image
      without true cells of the class scores 1 when nothing is kept on it and 0 otherwise.

    Of equal ones the strictest is taken. Votes and duplicates, which the filter uses too, do not enter.

    The reject threshold of a candidate is `reject_below`, or for `auto` the confidence whose count is nearest
    to the number of true cells (of equal ones the lower), but never above the candidate. The count is that of
    the predictions of any area with at least the reject threshold: those that the filter accepts or ignores there,
    and the unsure specks. Counts are of these images; other images may hold more or fewer cells.
    """
    own = np.ones(len(samples.class_id), bool) if class_id is None else samples.class_id == class_id
    asked = np.ones(len(samples.true_class), bool) if class_id is None else samples.true_class == class_id
    fits = own & (samples.area >= low) & (samples.area <= (np.inf if high is None else high))
    gained = _gained(samples, fits, 1 if config.objective == "f-beta" else len(TWENTIETHS))
    quality, truths = samples.quality[own], int(asked.sum())
    last = np.flatnonzero(np.append(np.diff(quality) < 0, True)[: len(quality)])  # equal ones are kept together
    sure = last[quality[last] >= config.min_precision]
    # Place 0 of these stands for keeping nothing, place n for the n most confident.
    kept = np.append(0, np.cumsum(fits[own]))
    hit = np.append(0, np.cumsum(gained[own, 0]))
    if config.objective == "f-beta":
        values = _f_beta(hit, kept, truths, config.f_beta)
    else:
        values = _mean_score(samples, fits, gained, asked)[np.append(True, own)]
    accepts = quality[sure].astype(np.float64) if len(sure) else np.array([config.min_precision])
    places = sure + 1 if len(sure) else np.array([0])
    rejects = np.minimum(_reject(quality, last, truths, config), accepts)
    # Candidates fall, so the first of equal ones is the strictest.
    best = int(np.flatnonzero(values[places] >= values[places].max() - EQUAL_OBJECTIVES)[0])
    place = places[best]
    return SweepResult(
        accept=float(accepts[best]),
        below=float(quality[place]) if place < len(quality) else 0.0,
        reject=float(rejects[best]),
        value=float(values[place]),
        kept=int(kept[place]),
        hit=int(hit[place]),
        predictions=len(quality),
        truths=truths,
        sure=len(sure) > 0,
        counted=len(quality) - int(np.searchsorted(quality[::-1], np.float32(rejects[best]))),
    )


def _pairs(predictions: Sequence[Instances], truths: Sequence[Instances]) -> tuple[Ints, Ints, Ints]:
    """Pairs of one class with IoU > .5: true and predicted indices over all images, and the level."""
    found: list[NDArray[np.int64]] = []
    n_true = n_predicted = 0
    for predicted, truth in zip(predictions, truths, strict=True):
        every = overlap(truth, predicted)
        near = every.where(every.above(HALF) & (truth.class_id[every.rows] == predicted.class_id[every.columns]))
        found.append(np.stack([near.rows + n_true, near.columns + n_predicted, near.level]))
        n_true, n_predicted = n_true + len(truth), n_predicted + len(predicted)
    true, predicted_index, levels = np.concatenate(found, axis=1)
    return true, predicted_index, levels


def _gained(samples: Samples, keep: Bools, thresholds: int) -> Bools:
    """bool (P, thresholds): whether a kept prediction enlarges the matching of the kept ones before it."""
    pairs = keep[samples.pair_predicted]
    rows, columns, level = (each[pairs] for each in (samples.pair_true, samples.pair_predicted, samples.pair_level))
    return gains(rows, columns, level, (len(samples.true_class), len(keep)), thresholds)


def _by_value(index: Ints, value: Ints) -> Iterator[Ints]:
    """The parts of `index` that share a value, each in its order."""
    order = np.argsort(value, kind="stable")
    ends = np.flatnonzero(np.diff(value[order])) + 1
    return (part for part in np.split(index[order], ends) if len(part))


def _f_beta(hit: Ints, kept: Ints, truths: int, beta: float) -> Floats:
    # F-beta = (1 + b2) TP / (b2 * (TP + FN) + (TP + FP)); Van Rijsbergen 1979.
    score: Floats = (1 + beta**2) * hit / np.maximum(beta**2 * truths + kept, EQUAL_OBJECTIVES)
    return score


def _mean_score(samples: Samples, keep: Bools, gained: Bools, asked: Bools) -> Floats:
    """float64 (P + 1,): the mean score of the images when nothing, the best, the two best ... may be kept."""
    truths = np.bincount(samples.true_image[asked], minlength=samples.images)
    added = np.zeros(len(keep) + 1)
    index = np.flatnonzero(keep)
    none = [0] * len(TWENTIETHS)
    for part in _by_value(index, samples.image[index]):
        n = int(truths[samples.image[part[0]]])
        tp = [none, *np.cumsum(gained[part], axis=0).tolist()]
        added[part + 1] = np.diff([Tally(n, k, tuple(row), mean_iou=0.0).ap for k, row in enumerate(tp)])
    added[0] = (truths == 0).sum()
    return np.cumsum(added) / max(samples.images, 1)


def _reject(quality: NDArray[np.float32], last: NDArray[np.intp], truths: int, config: FilterConfig) -> float:
    if config.reject_below != AUTO:
        return config.reject_below
    if not len(last):
        return 0.0
    away = np.abs(last + 1 - truths)
    return float(quality[last[np.flatnonzero(away == away.min())[-1]]])
