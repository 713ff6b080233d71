"""Resamples images for intervals and paired probabilities; says whether so many are enough, and which decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from cellsemi.rounds.evaluation.metrics import Floats

CHUNK = 2**22  # image draws held in memory at once while resampling
EQUAL_MEANS = 1e-12  # resampled means closer than this are equal; sums of floats differ in the last digits
# Fewer images make no interval: on small samples the percentile bootstrap is too narrow (Hesterberg 2015, "What
# teachers should know about the bootstrap").
ENOUGH_IMAGES = 8
USUAL_FOLDS = 5  # what is suggested; fewer where there are not as many images or groups


def bootstrap_interval(values: ArrayLike, samples: int, confidence: float, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean when the images are drawn anew (Efron 1979).

    It shows how much the figure depends on these images; not how much on the seed of a training.
    """
    means = _resampled_means(np.asarray(values, dtype=np.float64), samples, seed)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_probability(a: ArrayLike, b: ArrayLike, samples: int, seed: int) -> float:
    """Share of resamples of the images on which a's mean is larger than b's; ties count half.

    >>> paired_probability([.5, .6], [.5, .6], 100, 0), paired_probability([.6, .7], [.5, .6], 100, 0)
    (0.5, 1.0)
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"expected two values per image, got {first.shape} and {second.shape}")
    means = _resampled_means(first - second, samples, seed)
    return float((means > EQUAL_MEANS).mean() + 0.5 * (np.abs(means) <= EQUAL_MEANS).mean())


def _resampled_means(values: Floats, samples: int, seed: int) -> Floats:
    if values.ndim != 1 or not len(values):
        raise ValueError(f"expected one value per image and at least one image, got shape {values.shape}")
    generator = np.random.default_rng(seed)
    means = [
        values[generator.integers(0, len(values), (rows, len(values)))].mean(axis=1)
        for rows in _chunks(samples, max(1, CHUNK // len(values)))
    ]
    return np.concatenate(means)


def _chunks(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


def enough(images: int) -> bool:
    """Whether an interval over so many images is shown."""
    return images >= ENOUGH_IMAGES


def too_few(images: int) -> str:
    """What stands in the place of an interval.

    >>> too_few(3)
    'n = 3: too few'
    """
    return f"n = {images}: too few"


def who_decides(labelled: int, val: int, folds: int | None, groups: int | None = None) -> str:
    """Which images decide thresholds and promotion; where they are few, what `rounds.folds` would do.

    `labelled` and `val` count images, `groups` what may not be divided (None: unknown, or nothing).

    >>> who_decides(28, 12, None)
    '12 validation images decide thresholds and promotion'
    >>> who_decides(28, 12, 5)
    'all 40 labelled images decide thresholds and promotion, in 5 folds (rounds.folds)'
    """
    everything = labelled + val
    if folds is not None:
        return f"all {everything} labelled images decide thresholds and promotion, in {folds} folds (rounds.folds)"
    decide = "validation image decides" if val == 1 else "validation images decide"
    if enough(val):
        return f"{val} {decide} thresholds and promotion"
    sentence = f"only {val} {decide} thresholds and promotion, too few to tell a gain from chance"
    most = min(USUAL_FOLDS, everything, groups or everything)
    if most < 2:
        return sentence
    return (
        f"{sentence}; rounds.folds: {most} would let all {everything} labelled images decide, "
        f"at {most} times the training"
    )
