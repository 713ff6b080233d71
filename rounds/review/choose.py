"""Chooses images whose correction serves the most others: not twenty neighbours of one well, and not the oddest ones.

A correction teaches about images that look like the corrected one. So the chosen images shall cover the labels that are
expected to be wrong in the whole pool: facility location, weighted by the worth of each image (Wei, Iyer and Bilmes
2015, ICML: submodularity in data subset selection and active learning). By worth alone, outliers and their copies lead
(Settles and Craven 2008, EMNLP), the more so while there are few labels (Hacohen et al. 2022, arXiv 2202.02794).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.instances import Instances

SHARPNESS = 2.0  # the similarity of two looks is exp(-SHARPNESS x their mean squared distance)
SAME_GROUP = 0.5  # the least similarity of two images of one group
CANDIDATES = 2000  # images that may be chosen, those of the largest worth; all of them count as covered


def look(pixels: NDArray[np.number], cells: Instances) -> NDArray[np.float64]:
    """float64 (8,): what an image looks like: brightness, contrast, skew, texture, colour, and number, size and spread
    of its cells.

    `pixels` (H, W) or (H, W, C) of any type; brightness and contrast are relative to the range of the image.
    """
    full = pixels.astype(np.float64)
    colour = full if full.ndim == 3 else full[..., None]
    grey = colour.mean(axis=2)
    low, high = np.percentile(grey, (0.1, 99.9))
    span = max(high - low, 1e-9)
    scaled = np.clip((grey - low) / span, 0, 1)
    skew = float(scaled.mean() - np.median(scaled))
    edges = np.abs(np.diff(scaled, axis=0)).mean() + np.abs(np.diff(scaled, axis=1)).mean()
    hue = float((colour.max(axis=2) - colour.min(axis=2)).mean()) / span
    shown = cells.in_state("accepted", "ignored")
    sizes = np.log(shown.area) if len(shown) else np.zeros(1)
    density = np.log1p(len(shown) / (cells.height * cells.width) * 1e5)
    return np.array([scaled.mean(), scaled.std(), skew, edges, hue, density, np.median(sizes), sizes.std()])


def choose(worth: Sequence[float], looks: NDArray[np.float64], groups: Sequence[str | None], count: int) -> list[int]:
    """The indices of `count` images, in the order in which they were chosen; images of no worth are not.

    Each next one covers the most of the pool's worth that those before it leave: the sum over all images of worth x
    what its similarity exceeds that of the most similar one chosen. The similarity of two looks (N, F), each column by
    its standard deviation, is exp(-SHARPNESS x the mean squared distance), and at least SAME_GROUP within a group. Of
    equals the one of more worth is taken.
    """
    weight = np.asarray(worth, np.float64)
    candidates = np.argsort(-weight, kind="stable")[:CANDIDATES]
    candidates = candidates[weight[candidates] > 0]
    if not len(candidates):
        return []
    spread = looks.std(axis=0)
    scaled = looks / np.where(spread > 0, spread, 1.0)
    alike = np.stack([_alike(scaled, groups, image) for image in candidates.tolist()])
    covered = np.zeros(len(weight))
    open_ = np.ones(len(candidates), bool)
    chosen: list[int] = []
    while len(chosen) < count and open_.any():
        gains = np.maximum(alike - covered, 0) @ weight
        place = int(np.argmax(np.where(open_, gains, -1.0)))
        open_[place] = False
        chosen.append(int(candidates[place]))
        covered = np.maximum(covered, alike[place])
    return chosen


def _alike(looks: NDArray[np.float64], groups: Sequence[str | None], image: int) -> NDArray[np.float32]:
    """float32 (N,): the similarity of all images to one."""
    alike = np.exp(-SHARPNESS * ((looks - looks[image]) ** 2).mean(axis=1))
    if groups[image] is not None:
        same = np.array([group == groups[image] for group in groups])
        alike = np.where(same, np.maximum(alike, SAME_GROUP), alike)
    return np.asarray(alike, np.float32)
