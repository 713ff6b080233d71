"""Chooses images that are worth a correction and differ from each other: not twenty neighbours of one well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.instances import Instances

SAME_GROUP = 0.5  # the least similarity of two images of one group


def look(pixels: NDArray[np.number], cells: Instances) -> NDArray[np.float64]:
    """float64 (6,): what an image looks like: brightness, contrast and texture, number, size and spread of its cells.

    `pixels` (H, W) or (H, W, C) of any type; brightness and contrast are relative to the range of the image.
    """
    grey = pixels.astype(np.float64)
    grey = grey.mean(axis=2) if grey.ndim == 3 else grey
    low, high = np.percentile(grey, (0.1, 99.9))
    scaled = np.clip((grey - low) / max(high - low, 1e-9), 0, 1)
    edges = np.abs(np.diff(scaled, axis=0)).mean() + np.abs(np.diff(scaled, axis=1)).mean()
    shown = cells.in_state("accepted", "ignored")
    sizes = np.log(shown.area) if len(shown) else np.zeros(1)
    density = np.log1p(len(shown) / (cells.height * cells.width) * 1e5)
    return np.array([scaled.mean(), scaled.std(), edges, density, np.median(sizes), sizes.std()])


def choose(worth: Sequence[float], looks: NDArray[np.float64], groups: Sequence[str | None], count: int) -> list[int]:
    """The indices of `count` images, in the order in which they were chosen; images of no worth are not.

    Each next one has the most worth x (1 - similarity to the most similar one that is chosen already). The similarity
    is exp(-d^2 / 2) of the distance of two looks (N, F), each column by its standard deviation and d^2 the mean over
    the columns, and at least SAME_GROUP within a group. Of equals the first is taken.
    """
    left = np.asarray(worth, np.float64).copy()
    if not len(left):
        return []
    spread = looks.std(axis=0)
    scaled = looks / np.where(spread > 0, spread, 1.0)
    similar = np.zeros(len(left))
    chosen: list[int] = []
    while len(chosen) < count and (left > 0).any():
        new = int(np.argmax(np.where(left > 0, left * (1 - similar), -1.0)))
        chosen.append(new)
        left[new] = 0.0
        squared = ((scaled - scaled[new]) ** 2).mean(axis=1)
        alike = np.exp(-squared / 2)
        same = np.array([group is not None and group == groups[new] for group in groups])
        similar = np.maximum(similar, np.where(same, np.maximum(alike, SAME_GROUP), alike))
    return chosen
