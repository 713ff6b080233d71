"""Fuses cells by hand, pixel by pixel and in exact fractions: the reference of the tests of fusion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from pycocotools import mask as coco

from cellsemi.configs.rounds import FusionConfig
from cellsemi.rounds.cells.instances import Instances

# pycocotools' decode is older than numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HEIGHT, WIDTH = 11, 14
METHODS = ("vote", "weighted", "nms", "union")
Pixels = frozenset[tuple[int, int]]


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
    weights = [cell.quality if method == "weighted" else cell.score for cell in members]
    return weights if any(weights) else [Fraction(1)] * len(members)


def class_of(members: list[Cell], method: str) -> int:
    votes: dict[int, Fraction] = {}
    for cell, weight in zip(members, weights_of(members, method), strict=True):
        votes[cell.class_id] = votes.get(cell.class_id, Fraction(0)) + weight
    return min(votes, key=lambda c: (-votes[c], c))


def fused_by_hand(per_teacher: dict[str, Instances], config: FusionConfig, lock: bool) -> list[Fused]:
    """What `fuse` should give, best score first, for cells of which no two have the same score."""
    cells = [
        Cell(name, exact(c.score[i]), exact(c.quality[i]), int(c.class_id[i]), pixels)
        for name, c in per_teacher.items()
        for i, pixels in enumerate(pixels_of(c))
    ]
    cells.sort(key=lambda cell: -cell.score)
    method, teachers = config.method, len(per_teacher)
    found = []
    for members in (greedy_clusters if method == "nms" else complete_clusters)(cells, Fraction(str(config.iou))):
        ious = [iou(a, b) for a, b in combinations(members, 2)]
        agreed = sum(ious) / len(ious) if ious else Fraction(1)
        score = quality = sum(c.score for c in members) / teachers * agreed
        pixels = members[0].pixels
        if method == "weighted":
            score = quality = sum(c.quality for c in members) / Fraction(teachers)
        if method == "nms":
            score, quality = members[0].score, members[0].quality
        elif method == "union":
            pixels = frozenset().union(*(c.pixels for c in members))
        elif len(members) > 1:
            pixels = majority(members, weights_of(members, method))
        class_id = class_of(cells if lock else members, method)
        found.append(Fused(pixels, class_id, len({c.teacher for c in members}), score, quality, agreed))
    return found
