"""Estimates how large the cells of the unlabelled images are, from the scales that the teachers chose.

An unlabelled image whose best scale is half that of the labelled ones holds cells of twice their size. Validation
images enlarged twice, with their human labels, then show how good a model is there, and the shares of the
sizes weigh them: importance-weighted validation (Shimodaira 2000; Sugiyama, Krauledat and Mueller 2007) with cell
size as the one quantity in which the unlabelled images are known to differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

SMALLEST_SHARE = 0.05  # of the unlabelled images: rarer sizes may be errors of the search
ALIKE = 0.25  # val images stand for the unlabelled ones where fewer than so many would have to have another size
DIGITS = 2  # of an enlargement: it names a folder

Scales = Mapping[float, int]  # scale -> images with the best score at it


def enlargements(unlabelled: Scales, val: Scales) -> dict[float, float]:
    """Enlargement of val images -> share of the unlabelled images with cells of that size; {1: 1} if all are alike.

    They are alike where the shares of the scales differ by less than ALIKE in total variation. Else the scale that is
    typical of val (the weighted median) stands for enlargement 1.
    """
    if _distance(unlabelled, val) < ALIKE:
        return {1.0: 1.0}
    typical = _median(val)
    shares: Counter[float] = Counter()
    for scale, count in unlabelled.items():
        shares[round(typical / scale, DIGITS)] += count
    total = sum(shares.values())
    kept = {size: count for size, count in sorted(shares.items()) if count >= SMALLEST_SHARE * total}
    return {size: count / sum(kept.values()) for size, count in kept.items()} or {1.0: 1.0}


def weighted(values: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """float64 (N,): the mean over sizes of the scores of N images, weighted by their shares (which sum to 1)."""
    return np.average(np.stack(values), axis=0, weights=shares)


def _distance(one: Scales, other: Scales) -> float:
    """The total variation of two sets of images: the share of one that would have to change; 0 if one is empty."""
    totals = sum(one.values()), sum(other.values())
    if not all(totals):
        return 0.0
    shares = ((one.get(scale, 0) / totals[0], other.get(scale, 0) / totals[1]) for scale in {*one, *other})
    return sum(abs(a - b) for a, b in shares) / 2


def _median(scales: Scales) -> float:
    """The weighted median (the lower one); 1 without images."""
    reached, half = 0, sum(scales.values()) / 2
    for scale, count in sorted(scales.items()):
        reached += count
        if reached >= half and count:
            return scale
    return 1.0
