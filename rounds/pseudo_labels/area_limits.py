"""Computes the area limits of each class from the cells that people drew."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.rounds import FilterConfig
from cellsemi.rounds.cells.instances import Instances


@dataclass(frozen=True, slots=True)
class AreaLimits:
    """The smallest and largest area in pixels, both allowed, and `whose` cells they come from."""

    low: int
    high: int
    whose: str


def areas_by_class(labelled: Iterable[Instances], n_classes: int) -> list[NDArray[np.int64]]:
    """Areas of the labelled cells of each class; the images are read one by one."""
    found: list[list[NDArray[np.int64]]] = [[np.zeros(0, np.int64)] for _ in range(n_classes)]
    for cells in labelled:
        for class_id in np.unique(cells.class_id).tolist():
            found[class_id].append(cells.area[cells.class_id == class_id])
    return [np.concatenate(parts) for parts in found]


def area_limits(class_id: int, areas: list[NDArray[np.int64]], config: FilterConfig) -> AreaLimits | None:
    """The quantiles `area_quantile` and its mirror, widened by `area_slack`; None without a labelled cell.

    A class with fewer than `min_samples` labelled cells takes the wider of its own and the common limits at
    each end: a rare class must not lose its cells because the others are of another size.
    """
    own, everyone = areas[class_id], np.concatenate(areas)
    if not len(everyone):
        return None
    groups = [group for group in (own, everyone) if len(group)]
    if len(own) >= config.min_samples:
        groups = [own]
    quantiles = [config.area_quantile, 1 - config.area_quantile]
    ends = np.array([np.quantile(group, quantiles) for group in groups])
    whose = f"{len(own)} labelled cells" + ("" if len(groups) == 1 and len(own) else " and those of all classes")
    low = math.floor(ends[:, 0].min() / config.area_slack)
    return AreaLimits(low, math.ceil(ends[:, 1].max() * config.area_slack), whose)
