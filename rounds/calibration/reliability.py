"""Measures reliability: of the predictions with confidence .8, eight in ten should be right.

Reliability diagrams of DeGroot and Fienberg (1983, "The comparison and evaluation of forecasters"), in ten equal
bins; the expected calibration error is that of Guo et al. (2017, "On calibration of modern neural networks").
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 10


class Bin(NamedTuple):
    """Predictions of similar confidence: how many, their mean confidence, and the share of them that is right."""

    samples: int
    confidence: float
    hit_rate: float


Bins = tuple[Bin, ...]


def reliability(confidence: NDArray[Any], hit: NDArray[np.bool_]) -> Bins:
    """The non-empty ones of BINS equal bins, in rising order, of N confidences in [0, 1] and whether each was right.

    >>> reliability(np.array([.75, .75, .75, .75, .1]), np.array([True, True, True, False, False]))
    (Bin(samples=1, confidence=0.1, hit_rate=0.0), Bin(samples=4, confidence=0.75, hit_rate=0.75))
    """
    values = np.asarray(confidence, dtype=np.float64)
    places = np.minimum((values * BINS).astype(int), BINS - 1)
    found = []
    for place in np.unique(places).tolist():
        own = values[places == place]
        # Rounding must not carry a mean over the edge of its bin: bin_of finds the bin again.
        mean = float(np.clip(own.mean(), own.min(), own.max()))
        found.append(Bin(len(own), mean, float(np.mean(hit[places == place]))))
    return tuple(found)


def bin_of(found: Bin) -> int:
    """Which of the BINS equal bins this is, from 0."""
    return min(int(found.confidence * BINS), BINS - 1)


def expected_calibration_error(bins: Bins) -> float | None:
    """Mean distance between confidence and hit rate over the bins, weighted by predictions; None without any."""
    if not bins:
        return None
    gaps = sum(found.samples * abs(found.confidence - found.hit_rate) for found in bins)
    return gaps / sum(found.samples for found in bins)
