"""Defines the methods of fusion: how cells are clustered, drawn and scored.

Cells are numbered best score first. A method gets the links between cells of different teachers and the
members of each cluster, never the teachers' names. Sources: `vote`, the mask clusters and pixel votes of the
Sartorius winners; `weighted`, boxes weighted by confidence (Solovyev, Wang and Gabruseva 2021, "Weighted boxes
fusion") carried over to pixels; `nms`, greedy non-maximum suppression on mask IoU; `union`, the affirmative
ensemble of Casado-Garcia and Heras (2020), which keeps the pixels of every member; `refine`, the boundaries of one
kind of model and the stability of another, of a team of Sartorius (docs/models.md, system A).
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.rounds import FusionMethod
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import iou_matrix
from cellsemi.rounds.cells.rle import Bitmap, ends_of

Links = dict[tuple[int, int], float]  # (i, j), i < j -> IoU of two cells of different teachers
Clusters = list[list[int]]  # members in rising order: the best scored first
Ints = NDArray[np.int64]
Weights = NDArray[np.float64]

IN_ORDER = 8  # NumPy adds fewer values than these one after another


@functools.cache
def vote_kernels() -> ModuleType:
    """The compiled loops; numba is imported now."""
    from cellsemi.rounds.pseudo_labels import vote_kernels

    return vote_kernels


class Bitmaps(NamedTuple):
    """Bitmaps one after another, row by row: `pixels` bool, `upto` int64 (N + 1,) where each begins, `boxes` (N, 4)."""

    pixels: Bitmap
    upto: Ints
    boxes: Ints


class Groups(NamedTuple):
    """Clusters of two or more cells: `members` int64, and `offsets` (K + 1,), where those of each cluster begin.

    `weights` float64 and `draws`, bool, stand beside the members, `totals` are those of the K clusters. `draws`: the
    member is of a teacher whose masks are taken first (FusionConfig.boundaries).
    """

    members: Ints
    offsets: Ints
    weights: Weights
    totals: Weights
    draws: Bitmap


class Drawn(NamedTuple):
    """The masks of K clusters: `chosen` int64 (K,), the member whose mask is the result, -1 where `bitmaps` has it."""

    chosen: Ints
    bitmaps: Bitmaps


class VotesCast(NamedTuple):
    """What the teachers say of one cluster, float64 (M,) of its members: `votes`, their weight, `score` and `quality`.

    `spoken` is the sum of the votes, `ious` the IoU of each pair of members in the order of `combinations`, `silence`
    the weight of the teachers that saw the image and found nothing there.
    """

    votes: Weights
    score: Weights
    quality: Weights
    spoken: float
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
        total = self.spoken
        if not self.ious or total <= 0:
            return self.agreement
        count = len(self.votes)
        pairs = combinations(self.votes.tolist(), 2)
        apart = sum([2 * a * b * (1 - iou) for (a, b), iou in zip(pairs, self.ious, strict=True)])
        return max(0.0, float(1 - count / (count - 1) * apart / total**2))

    def mean(self, values: Weights) -> float:
        """The mean of the members' values by the weight of their votes, where silence is a value of 0."""
        total = self.spoken + self.silence
        return float(np.dot(self.votes, values)) / total if total > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Method:
    """One way to fuse. `clusters` gets the teacher of each cell, int64 (N,), and the links.

    `draw` gets the bitmaps of all cells and the clusters of two or more. `scores` gives score and quality of a cluster
    from the votes cast on it. `weigh_by` is the column that weighs the members, in `draw` and in the vote on the class.
    """

    clusters: Callable[[NDArray[np.int64], Links], Clusters]
    draw: Callable[[Bitmaps, Groups], Drawn]
    scores: Callable[[VotesCast], tuple[float, float]]
    weigh_by: Literal["score", "quality"] = "score"

    def weights(self, cells: Instances, members: Sequence[int]) -> Weights:
        """What each member weighs, float64: its score or quality, or the same for all where all are zero."""
        column: NDArray[np.float32] = getattr(cells, self.weigh_by)[np.asarray(members, dtype=np.int64)]
        return column.astype(np.float64) if column.any() else np.ones(len(column))

    def groups(self, cells: Instances, clusters: Sequence[list[int]], draws: Bitmap) -> Groups:
        """Clusters of two or more cells with their weights; `draws` (N,) is of all cells."""
        members = np.array([i for each in clusters for i in each], np.int64)
        offsets = np.cumsum([0, *map(len, clusters)])
        column: NDArray[np.float32] = getattr(cells, self.weigh_by)
        weights = column[members].astype(np.float64)
        for k in np.flatnonzero(~np.logical_or.reduceat(weights > 0, offsets[:-1])) if len(clusters) else ():
            weights[offsets[k] : offsets[k + 1]] = 1
        return Groups(members, offsets, weights, sums(weights, offsets), draws[members])


def sums(values: Weights, offsets: Ints) -> Weights:
    """float64 (K,): the sum of each part, to the last bit that of NumPy for the part alone."""
    sizes = np.diff(offsets)
    if sizes.max(initial=0) >= IN_ORDER:
        parts = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        return np.array([values[first:last].sum() for first, last in parts], np.float64)
    found = np.zeros(len(sizes))
    for place in range(int(sizes.max(initial=0))):
        longer = sizes > place
        found[longer] += values[offsets[:-1][longer] + place]
    return found


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
        if a == b:
            continue
        lone = len(clusters[a]) == len(clusters[b]) == 1
        if not lone and not all((min(p, q), max(p, q)) in links for p in clusters[a] for q in clusters[b]):
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


def majority(cells: Bitmaps, groups: Groups) -> Drawn:
    """The pixels that members with at least half of the weight hold; the heaviest member where there is none.

    Only the largest 8-connected part is kept, of equal ones the first in reading order, unless the pixels are exactly
    those of a member.
    """
    drawn, chosen = _empty(cells, groups), np.empty(len(groups.totals), np.int64)
    vote_kernels().majority(*cells, *groups[:4], drawn.boxes, drawn.pixels, drawn.upto, chosen)
    return Drawn(chosen, drawn)


def first(cells: Bitmaps, groups: Groups) -> Drawn:
    """The first member."""
    return Drawn(np.zeros(len(groups.totals), np.int64), _empty(cells, groups))


def of_those_that_draw(cells: Bitmaps, groups: Groups) -> Drawn:
    """The first member whose teacher draws; the first of all where there is none."""
    ends = zip(groups.offsets[:-1].tolist(), groups.offsets[1:].tolist(), strict=True)
    return Drawn(np.array([groups.draws[a:b].argmax() for a, b in ends], np.int64), _empty(cells, groups))


def union(cells: Bitmaps, groups: Groups) -> Drawn:
    """All pixels of any member."""
    drawn = _empty(cells, groups)
    vote_kernels().union(*cells, groups.members, groups.offsets, drawn.boxes, drawn.pixels, drawn.upto)
    return Drawn(np.full(len(groups.totals), -1, np.int64), drawn)


def _empty(cells: Bitmaps, groups: Groups) -> Bitmaps:
    """Bitmaps without a pixel, each in the common box of the members of a cluster."""
    boxes = np.zeros((len(groups.totals), 4), np.int64)
    if len(boxes):
        own, begins = cells.boxes[groups.members], groups.offsets[:-1]
        boxes[:, :2] = np.minimum.reduceat(own[:, :2], begins)
        boxes[:, 2:] = np.maximum.reduceat(own[:, 2:], begins)
    upto = ends_of(boxes)
    return Bitmaps(np.zeros(upto[-1], bool), upto, boxes)


# --- scores -------------------------------------------------------------------------------------------


def pair_ious(cells: Instances, members: list[int], links: Links) -> tuple[float, ...]:
    """The mask IoU of each pair of members, in the order of `combinations`; empty for a lone one.

    Members need not all be linked to each other (`greedy`); then the IoU is that of their masks all the same.
    """
    known = [links.get(pair, -1.0) for pair in combinations(members, 2)]
    if min(known, default=0.0) >= 0:
        return tuple(known)
    own = cells.select(members)
    return tuple(iou_matrix(own, own)[np.triu_indices(len(own), 1)].tolist())


def agreed_score(cast: VotesCast) -> tuple[float, float]:
    """Twice the same: the mean of the scores over all teachers, times the agreement."""
    score = cast.mean(cast.score) * cast.agreed
    return score, score


def mean_quality(cast: VotesCast) -> tuple[float, float]:
    """Twice the same: the mean of the qualities over all teachers (in the paper mean confidence x T / N)."""
    score = cast.mean(cast.quality)
    return score, score


def of_the_first(cast: VotesCast) -> tuple[float, float]:
    """Score and quality of the first member."""
    return float(cast.score[0]), float(cast.quality[0])


METHODS: Mapping[FusionMethod, Method] = {
    "vote": Method(complete, majority, agreed_score),
    "weighted": Method(complete, majority, mean_quality, weigh_by="quality"),
    "nms": Method(greedy, first, of_the_first),
    "union": Method(complete, union, agreed_score),
    "refine": Method(complete, of_those_that_draw, mean_quality, weigh_by="quality"),
}
