"""Gathers precision and recall of the pseudo-labels over all thresholds on their quality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import hits
from cellsemi.rounds.pseudo_labels.thresholds import Thresholds

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chosen:
    """A threshold that was chosen, and what it gives; both are None where nothing is kept, or there is no true cell."""

    threshold: float
    precision: float | None
    recall: float | None


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionRecall:
    """One class on validation images: precision and recall (n,) of what has at least each quality, falling.

    `predictions` and `truths` count cells. Areas, votes and duplicates, which the filter goes by too, do not enter.
    """

    name: str
    quality: Floats
    precision: Floats
    recall: Floats
    predictions: int
    truths: int
    accept: Chosen
    reject: Chosen


def precision_recall(
    judged: Iterable[tuple[Instances, Instances]], classes: Sequence[str], thresholds: Thresholds
) -> list[PrecisionRecall]:
    """Those of each class of (predictions with their quality, human cells) of validation images.

    A prediction is right when it is a true cell of its class at IoU > .5, each cell counted once, by falling quality.
    """
    quality: dict[int, list[NDArray[np.float32]]] = {c: [] for c in range(len(classes))}
    right: dict[int, list[NDArray[np.bool_]]] = {c: [] for c in range(len(classes))}
    truths = np.zeros(len(classes), np.int64)
    for predicted, truth in judged:
        hit = hits(predicted.with_(score=predicted.quality), truth)
        truths += np.bincount(truth.class_id, minlength=len(classes))
        for c in np.unique(predicted.class_id).tolist():
            own = predicted.class_id == c
            quality[c].append(predicted.quality[own])
            right[c].append(hit[own])
    return [
        _of_class(name, _joined(quality[c], np.float32), _joined(right[c], np.bool_), int(truths[c]), thresholds)
        for c, name in enumerate(classes)
    ]


def _of_class(
    name: str, quality: NDArray[np.float32], right: NDArray[np.bool_], truths: int, thresholds: Thresholds
) -> PrecisionRecall:
    order = np.argsort(-quality, kind="stable")
    falling, found = quality[order], np.cumsum(right[order])
    last = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1) if len(falling) else np.zeros(0, np.int64)
    kept = last + 1
    chosen = thresholds.by_class[name]
    marks: Mapping[str, Chosen] = {
        which: _chosen(value, quality, right, truths)
        for which, value in (("accept", chosen.accept), ("reject", chosen.reject))
    }
    return PrecisionRecall(
        name=name,
        quality=falling[last].astype(np.float64),
        precision=found[last] / kept,
        recall=found[last] / max(truths, 1),
        predictions=len(quality),
        truths=truths,
        accept=marks["accept"],
        reject=marks["reject"],
    )


def _chosen(threshold: float, quality: NDArray[np.float32], right: NDArray[np.bool_], truths: int) -> Chosen:
    kept = quality >= threshold
    if not kept.any() or not truths:
        return Chosen(threshold, None, None)
    hit = int(right[kept].sum())
    return Chosen(threshold, hit / int(kept.sum()), hit / truths)


def _joined(parts: Sequence[NDArray[np.float32]] | Sequence[NDArray[np.bool_]], dtype: type) -> NDArray:  # type: ignore[type-arg]
    return np.concatenate(parts) if parts else np.zeros(0, dtype)
