"""Fuses cells by hand, pixel by pixel and in exact fractions: the reference of the tests of fusion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from cellsemi.configs.rounds import FusionConfig
from cellsemi.rounds.cells.instances import Instances

# pycocotools' decode is older than numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HEIGHT, WIDTH = 11, 14
METHODS = ("vote", "weighted", "nms", "union", "refine")
WEIGH_QUALITY = ("weighted", "refine")
Pixels = frozenset[tuple[int, int]]
DRAWS = ("t1", "a")  # the teachers whose masks `refine` takes, in the tests


def fusion_config(method: str, **settings: Any) -> FusionConfig:
    """The settings of a method; those that `refine` asks for beside."""
    return FusionConfig(method=method, boundaries=DRAWS if method == "refine" else (), **settings)


@dataclass(frozen=True)
class Cell:
    teacher: str
    score: Fraction
    quality: Fraction
    class_id: int
    pixels: Pixels


@dataclass(frozen=True)
class Fused:
    pixels: Pixels
    class_id: int
    votes: int
    score: Fraction
    quality: Fraction
    agreement: Fraction


def pixels_of(cells: Instances) -> list[Pixels]:
    size = [cells.height, cells.width]
    decoded = [coco.decode({"size": size, "counts": rle}) for rle in cells.rle]
    return [frozenset((int(y), int(x)) for y, x in zip(*np.nonzero(d), strict=True)) for d in decoded]


def exact(value: float) -> Fraction:
    return Fraction(float(value))


def iou(a: Cell, b: Cell) -> Fraction:
    return Fraction(len(a.pixels & b.pixels), len(a.pixels | b.pixels))


def same(a: Cell, b: Cell, limit: Fraction) -> bool:
    return a.teacher != b.teacher and iou(a, b) >= limit and iou(a, b) > 0


def complete_clusters(cells: list[Cell], limit: Fraction) -> list[list[Cell]]:
    """Join the two clusters that hold the best pair, as long as any two may be joined. `cells` best first."""
    clusters = [[cell] for cell in cells]
    while True:
        pairs = []
        for a, b in combinations(range(len(clusters)), 2):
            if all(same(p, q, limit) for p in clusters[a] for q in clusters[b]):
                for p in clusters[a]:
                    for q in clusters[b]:
                        rank = sorted((cells.index(p), cells.index(q)))
                        pairs.append((-iou(p, q), rank, a, b))
        if not pairs:
            return [sorted(c, key=cells.index) for c in clusters]
        _, _, a, b = min(pairs)
        clusters[a] = clusters[a] + clusters.pop(b)


def greedy_clusters(cells: list[Cell], limit: Fraction) -> list[list[Cell]]:
    """The best takes what is linked to it; a teacher is named once, by its closest cell."""
    left, clusters = list(cells), []
    while left:
        best, *rest = left
        taken = [cell for cell in rest if same(best, cell, limit)]
        members = [best]
        for name in {cell.teacher for cell in taken}:
            own = [cell for cell in taken if cell.teacher == name]
            members.append(max(own, key=lambda cell: (iou(best, cell), cell.score)))
        left = [cell for cell in rest if cell not in taken]
        clusters.append(members)
    return clusters


def parts(pixels: Pixels) -> Iterator[Pixels]:
    """The 8-connected parts, in reading order of their first pixel."""
    left = set(pixels)
    while left:
        part, todo = set(), [min(left)]
        while todo:
            y, x = todo.pop()
            if (y, x) in left:
                left.remove((y, x))
                part.add((y, x))
                todo += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        yield frozenset(part)


def majority(members: list[Cell], weights: list[Fraction]) -> Pixels:
    kept = set()
    for y in range(HEIGHT):
        for x in range(WIDTH):
            hold = [w for cell, w in zip(members, weights, strict=True) if (y, x) in cell.pixels]
            if hold and 2 * sum(hold) >= sum(weights):
                kept.add((y, x))
    if not kept:
        return members[weights.index(max(weights))].pixels
    if any(kept == cell.pixels for cell in members):
        return frozenset(kept)
    return max(parts(frozenset(kept)), key=len)  # max keeps the first of equals


def weights_of(members: list[Cell], method: str) -> list[Fraction]:
    weights = [cell.quality if method in WEIGH_QUALITY else cell.score for cell in members]
    return weights if any(weights) else [Fraction(1)] * len(members)


def class_of(members: list[Cell], method: str) -> int:
    votes: dict[int, Fraction] = {}
    for cell, weight in zip(members, weights_of(members, method), strict=True):
        votes[cell.class_id] = votes.get(cell.class_id, Fraction(0)) + weight
    return min(votes, key=lambda c: (-votes[c], c))


Recalls = dict[str, tuple[float, ...]]


def mean_of_all(
    members: list[Cell], values: list[Fraction], teachers: list[str], recall: dict[str, Fraction]
) -> Fraction:
    """Every teacher has its say: a member by the larger of its recall and its value, a silent one by its recall, 0."""
    spoke = {cell.teacher for cell in members}
    votes = [max(recall[cell.teacher], value) for cell, value in zip(members, values, strict=True)]
    said = [(weight, value) for weight, value in zip(votes, values, strict=True)]
    said += [(recall[name], Fraction(0)) for name in teachers if name not in spoke]
    total = sum(weight for weight, _ in said)
    return sum(weight * value for weight, value in said) / total if total else Fraction(0)


def agreed_by_weight(members: list[Cell], values: list[Fraction], recall: dict[str, Fraction]) -> Fraction:
    """1 less the pairwise disagreement: each pair counts as its two votes do, all alike where the votes are."""
    votes = [max(recall[cell.teacher], value) for cell, value in zip(members, values, strict=True)]
    if len(members) < 2 or not sum(votes):
        return Fraction(1) if len(members) < 2 else _plain_mean(members)
    share = [vote / sum(votes) for vote in votes]
    apart = sum(
        share[a] * share[b] * (1 - iou(members[a], members[b]))
        for a in range(len(members))
        for b in range(len(members))
        if a != b
    )
    return 1 - apart * Fraction(len(members), len(members) - 1)


def _plain_mean(members: list[Cell]) -> Fraction:
    ious = [iou(a, b) for a, b in combinations(members, 2)]
    return sum(ious, Fraction(0)) / len(ious)


def fused_by_hand(
    per_teacher: dict[str, Instances], config: FusionConfig, lock: bool, recalls: Recalls | None = None
) -> list[Fused]:
    """What `fuse` should give, best score first, for cells of which no two have the same score."""
    cells = [
        Cell(name, exact(c.score[i]), exact(c.quality[i]), int(c.class_id[i]), pixels)
        for name, c in per_teacher.items()
        for i, pixels in enumerate(pixels_of(c))
    ]
    cells.sort(key=lambda cell: -cell.score)
    method, teachers = config.method, list(per_teacher)
    found = []
    for members in (greedy_clusters if method == "nms" else complete_clusters)(cells, Fraction(str(config.iou))):
        agreed = _plain_mean(members) if len(members) > 1 else Fraction(1)
        class_id = class_of(cells if lock else members, method)
        recall = {name: exact((recalls or {}).get(name, (1.0,) * 9)[class_id]) for name in teachers}
        values = [cell.quality if method in WEIGH_QUALITY else cell.score for cell in members]
        score = quality = mean_of_all(members, values, teachers, recall)
        if method not in WEIGH_QUALITY:
            score = quality = score * agreed_by_weight(members, values, recall)
        pixels = members[0].pixels
        if method == "nms":
            score, quality = members[0].score, members[0].quality
        elif method == "refine":
            pixels = next((cell for cell in members if cell.teacher in config.boundaries), members[0]).pixels
        elif method == "union":
            pixels = frozenset().union(*(c.pixels for c in members))
        elif len(members) > 1:
            pixels = majority(members, weights_of(members, method))
        found.append(Fused(pixels, class_id, len({c.teacher for c in members}), score, quality, agreed))
    return found
