"""Defines the methods of fusion: how cells are clustered, drawn and scored.

Cells are numbered best score first. A method gets the links between cells of different teachers and the
members of each cluster, never the teachers' names. Sources: `vote`, the mask clusters and pixel votes of the
Sartorius winners; `weighted`, boxes weighted by confidence (Solovyev, Wang and Gabruseva 2021, "Weighted boxes
fusion") carried over to pixels; `nms`, greedy non-maximum suppression on mask IoU; `union`, the affirmative
ensemble of Casado-Garcia and Heras (2020), which keeps the pixels of every member.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.configs.rounds import FusionMethod
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import iou_matrix
from cellsemi.rounds.cells.rle import Bitmap

Links = dict[tuple[int, int], float]  # (i, j), i < j -> IoU of two cells of different teachers
Clusters = list[list[int]]  # members in rising order: the best scored first
Crop = tuple[Bitmap, int, int]  # bitmap, x0, y0
Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class VotesCast:
    """What the teachers say of one cluster: float64 (M,) the weight of each member, the IoU of each pair of members in
    the order of `combinations`, and the weight of the teachers that saw the image and found nothing there.
    """

    votes: Weights
    ious: tuple[float, ...]
    silence: float

    @property
    def agreement(self) -> float:
        """The mean pairwise mask IoU, 1 for a lone member."""
        return sum(self.ious) / len(self.ious) if self.ious else 1.0

    @property
    def agreed(self) -> float:
        """The same with each pair weighted by both votes: a teacher that is hardly trusted hardly spoils it.

        1 - M / (M - 1) * sum of 2 v v' (1 - IoU) over the pairs / (sum of v)^2: the mean IoU where all weigh the same.
        """
        count, total = len(self.votes), float(self.votes.sum())
        if count < 2 or total <= 0:
            return self.agreement
        pairs = combinations(self.votes.tolist(), 2)
        apart = sum(2 * a * b * (1 - iou) for (a, b), iou in zip(pairs, self.ious, strict=True))
        return float(max(0.0, 1 - count / (count - 1) * apart / total**2))

    def mean(self, values: Weights) -> float:
        """The mean of the members' values by the weight of their votes, where silence is a value of 0."""
        total = float(self.votes.sum()) + self.silence
        return float(np.dot(self.votes, values)) / total if total > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Method:
    """One way to fuse. `clusters` gets the teacher of each cell, int64 (N,), and the links.

    `draw` gets the crops of two or more members and their weights; it returns the fused crop, or the index of
    the member whose mask is the result. `scores` gives score and quality of a cluster from the votes cast on it.
    `weigh_by` is the column that weighs the members, in `draw` and in the vote on the class.
    """

    clusters: Callable[[NDArray[np.int64], Links], Clusters]
    draw: Callable[[Sequence[Crop], Weights], int | Crop]
    scores: Callable[[Instances, list[int], VotesCast], tuple[float, float]]
    weigh_by: Literal["score", "quality"] = "score"

    def weights(self, cells: Instances, members: Sequence[int]) -> Weights:
        """What each member weighs, float64: its score or quality, or the same for all where all are zero."""
        column: NDArray[np.float32] = getattr(cells, self.weigh_by)[np.asarray(members, dtype=np.int64)]
        return column.astype(np.float64) if column.any() else np.ones(len(column))


# --- clusters -----------------------------------------------------------------------------------------


def complete(teacher: NDArray[np.int64], links: Links) -> Clusters:
    """Groups of cells that are all linked to each other, made by joining the best pairs first.

    Cells of one teacher are never linked, so no teacher is in a cluster twice. Of a chain (A~B~C, A and C
    not linked) the better pair is one cell and the other end another. Of equal pairs the better scored joins
    first.
    """
    clusters = [[i] for i in range(len(teacher))]
    of_cell = list(range(len(teacher)))
    for i, j in sorted(links, key=lambda pair: (-links[pair], pair)):
        a, b = of_cell[i], of_cell[j]
        if a == b or not all((min(p, q), max(p, q)) in links for p in clusters[a] for q in clusters[b]):
            continue
        for member in clusters[b]:
            of_cell[member] = a
        clusters[a] += clusters[b]
        clusters[b] = []
    return [sorted(members) for members in clusters if members]


def greedy(teacher: NDArray[np.int64], links: Links) -> Clusters:
    """The best scored cell takes all cells left that are linked to it, then the best of what is left.

    Of the cells taken only the one of each teacher with the highest IoU is a member; the others are gone.
    Of a chain (A~B~C, A best, A and C not linked) A takes B, and C stays. Of equal cells of one teacher the
    better scored is the member.
    """
    near: dict[int, list[int]] = defaultdict(list)
    for i, j in links:
        near[i].append(j)
    taken: set[int] = set()
    clusters = []
    for best in range(len(teacher)):
        if best in taken:
            continue
        found = sorted((j for j in near[best] if j not in taken), key=lambda j: (-links[best, j], j))
        taken.update(found)
        members: dict[int, int] = {}
        for j in found:
            members.setdefault(int(teacher[j]), j)
        clusters.append([best, *sorted(members.values())])
    return clusters


# --- masks --------------------------------------------------------------------------------------------


def majority(members: Sequence[Crop], weights: Weights) -> int | Crop:
    """The pixels that members with at least half of the weight hold; the heaviest member where there is none.

    Only the largest connected part is kept, unless the pixels are exactly those of a member.
    """
    layers, x0, y0 = _stacked(members)
    consensus: Bitmap = 2 * np.tensordot(weights, layers, axes=1) >= weights.sum()
    if not consensus.any():
        return int(np.argmax(weights))
    for index, layer in enumerate(layers):
        if (layer == consensus).all():
            return index
    return _largest_part(consensus), x0, y0


def first(members: Sequence[Crop], weights: Weights) -> int:
    """The first member."""
    return 0


def union(members: Sequence[Crop], weights: Weights) -> Crop:
    """All pixels of any member."""
    layers, x0, y0 = _stacked(members)
    covered: Bitmap = np.logical_or.reduce(layers)
    return covered, x0, y0


def _stacked(members: Sequence[Crop]) -> tuple[Bitmap, int, int]:
    """The crops as bool (N, h, w) in their common box, and its corner x0, y0."""
    x0, y0 = min(x for _, x, _ in members), min(y for _, _, y in members)
    x1 = max(x + crop.shape[1] for crop, x, _ in members)
    y1 = max(y + crop.shape[0] for crop, _, y in members)
    layers = np.zeros((len(members), y1 - y0, x1 - x0), bool)
    for layer, (crop, x, y) in zip(layers, members, strict=True):
        layer[y - y0 : y - y0 + crop.shape[0], x - x0 : x - x0 + crop.shape[1]] = crop
    return layers, x0, y0


def _largest_part(bitmap: Bitmap) -> Bitmap:
    """Its largest 8-connected component; of equal ones the first in reading order."""
    labels, count = ndimage.label(bitmap, structure=np.ones((3, 3)))
    if count == 1:
        return bitmap
    part: Bitmap = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    return part


# --- scores -------------------------------------------------------------------------------------------


def pair_ious(cells: Instances, members: list[int], links: Links) -> tuple[float, ...]:
    """The mask IoU of each pair of members, in the order of `combinations`; empty for a lone one.

    Members need not all be linked to each other (`greedy`); then the IoU is that of their masks all the same.
    """
    pairs = list(combinations(members, 2))
    if all(pair in links for pair in pairs):
        return tuple(links[pair] for pair in pairs)
    own = cells.select(members)
    return tuple(iou_matrix(own, own)[np.triu_indices(len(own), 1)].tolist())


def agreed_score(cells: Instances, members: list[int], votes_cast: VotesCast) -> tuple[float, float]:
    """Twice the same: the mean of the scores over all teachers, times the agreement."""
    score = votes_cast.mean(cells.score[members].astype(np.float64)) * votes_cast.agreed
    return score, score


def mean_quality(cells: Instances, members: list[int], votes_cast: VotesCast) -> tuple[float, float]:
    """Twice the same: the mean of the qualities over all teachers (in the paper mean confidence x T / N)."""
    score = votes_cast.mean(cells.quality[members].astype(np.float64))
    return score, score


def of_the_first(cells: Instances, members: list[int], votes_cast: VotesCast) -> tuple[float, float]:
    """Score and quality of the first member."""
    return float(cells.score[members[0]]), float(cells.quality[members[0]])


METHODS: Mapping[FusionMethod, Method] = {
    "vote": Method(complete, majority, agreed_score),
    "weighted": Method(complete, majority, mean_quality, weigh_by="quality"),
    "nms": Method(greedy, first, of_the_first),
    "union": Method(complete, union, agreed_score),
}
