"""Resamples images for intervals and paired probabilities."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from cellsemi.rounds.evaluation.metrics import Floats

CHUNK = 2**22  # image draws held in memory at once while resampling


EQUAL_MEANS = 1e-12  # resampled means closer than this are equal; sums of floats differ in the last digits


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
