"""Scores of made-up images, for the tests of what decides on them."""

from __future__ import annotations

from cellsemi.configs.rounds import PromotionConfig
from cellsemi.rounds.evaluation.metrics import ImageScore, Tally

CLASSES = ("astro", "cort")
CONFIG = PromotionConfig(bootstrap=500)
LOW, HIGH, MIXED = [4, 5, 6, 5] * 5, [6, 7, 8, 7] * 5, [2, 7, 4, 7] * 5


def tally(passed, n=10):
    """One cell out of one, right at the first `passed` of the ten thresholds: a score of passed / 10."""
    return Tally(1, 1, tuple(int(i < passed) for i in range(n)), 0.5 + passed / 20 if passed else 0.0)


def scores(passed, classes=None):
    """Images with the given scores in tenths; each holds one class (0 unless given)."""
    classes = classes or [0] * len(passed)
    return tuple(
        ImageScore(f"i{k}", tally(p), {c: tally(p)}) for k, (p, c) in enumerate(zip(passed, classes, strict=True))
    )
