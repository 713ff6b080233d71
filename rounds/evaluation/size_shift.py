"""The sizes that cells of the pool have beside those of the labelled images, as far as the teachers' zooms tell.

A pool image that is best seen at half the zoom of the labelled ones holds cells of twice their size. Validation
images enlarged twice, with their human labels, then show how good a model is there, and the shares of the
sizes weigh them: importance-weighted validation (Shimodaira 2000; Sugiyama, Krauledat and Mueller 2007) with cell
size as the one quantity in which the pool is known to differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

SMALLEST_SHARE = 0.05  # of the pool: rarer sizes are as likely a whim of the search
DIGITS = 2  # of an enlargement: it names a folder

Zooms = Mapping[float, int]  # zoom -> images that were best seen at it


def enlargements(pool: Zooms, val: Zooms) -> dict[float, float]:
    """Enlargement of validation images -> share of the pool whose cells have that size; {1: 1} where all are alike.

    The zoom that is typical of val (the weighted median) stands for enlargement 1.
    """
    typical = _median(val)
    shares: Counter[float] = Counter()
    for zoom, count in pool.items():
        shares[round(typical / zoom, DIGITS)] += count
    total = sum(shares.values())
    kept = {size: count for size, count in sorted(shares.items()) if count >= SMALLEST_SHARE * total}
    return {size: count / sum(kept.values()) for size, count in kept.items()} or {1.0: 1.0}


def weighted(values: Sequence[np.ndarray], shares: Sequence[float]) -> np.ndarray:
    """float64 (N,): the mean over sizes of the scores of N images, weighted by their shares (which sum to 1)."""
    return np.average(np.stack(values), axis=0, weights=shares)


def _median(zooms: Zooms) -> float:
    """The weighted median (the lower one); 1 without images."""
    reached, half = 0, sum(zooms.values()) / 2
    for zoom, count in sorted(zooms.items()):
        reached += count
        if reached >= half and count:
            return zoom
    return 1.0
