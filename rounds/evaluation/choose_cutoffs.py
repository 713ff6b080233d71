"""Chooses the cutoffs of delivered predictions on validation images: a score for all, or score and area by class.

A least area for each class, and a confidence for each, chosen on the final predictions, are what several teams of the
Sartorius competition found to matter most. A class gets its own only where images that took no part in the choice
score better with it than with the score for all: few images would else be fitted, not learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import overlap
from cellsemi.rounds.cells.overlap import Overlap
from cellsemi.rounds.evaluation.bootstrap import ENOUGH_IMAGES
from cellsemi.rounds.evaluation.metrics import Floats, kept_curve

AREA_QUANTILES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)  # of true cells, tried as least area
BELOW = (0.25, 0.5)  # of the first quantile, tried as well
CANDIDATES = 200  # scores that are tried, evenly spread by rank where there are more
MIN_CELLS = 30  # a class with fewer true cells, or on fewer than ENOUGH_IMAGES images, keeps the score for all
PARTS = 10  # the images are cut into so many parts, each scored with what the others chose
SURE = 2.0  # standard errors by which a class's own cutoffs must win on the images that did not choose them

Pair = tuple[Instances, Instances]  # (predicted, truth)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The cutoffs chosen on all images, and for each image those that the images of other parts chose.

    Of fewer than ENOUGH_IMAGES images the others are too few to choose: these are scored with what all of them chose.
    `own` are the classes that have cutoffs of their own; which these are is decided once, on all images.
    """

    cutoffs: Cutoffs
    of_others: tuple[Cutoffs, ...]
    own: tuple[int, ...]


def choose_cutoffs(
    pairs: Sequence[Pair], groups: Sequence[str], classes: int, per: Literal["class", "all"] = "class"
) -> Chosen:
    """The cutoffs with the largest mAP on (predicted, truth) images: validation images, never test.

    Images of one group stand in one part. The sweep over scores is exact, as `best_threshold` is; of equal choices the
    one that keeps most is taken. While the cutoffs of one class are chosen, the others stand at the score for all.
    ValueError without an image.
    """
    if not pairs:
        raise ValueError("expected at least one image to choose cutoffs on, got none")
    part = parts_of(groups)
    for_all = _table_for_all(pairs)
    every = np.ones(len(pairs), bool)
    common, common_of = _best(for_all, every), [_best(for_all, part != k) for k in range(part.max() + 1)]
    limits = [[for_all.at(common) for _ in range(classes)]]
    limits += [[for_all.at(one) for _ in range(classes)] for one in common_of]
    own = []
    for class_id in range(classes) if per == "class" else ():
        table = _table_of_class(pairs, class_id, for_all.at(common)[0])
        if table is None:
            continue
        best = [_best(table, table.seen & (part != k)) for k in range(part.max() + 1)]
        gain = np.array(
            [table.value(i, best[part[i]]) - table.value_at(i, common_of[part[i]], for_all) for i in _index(table.seen)]
        )
        if _wins(gain):
            own.append(class_id)
            for row, one in zip(limits, [_best(table, table.seen), *best], strict=True):
                row[class_id] = table.at(one)
    found = [Cutoffs(tuple(score for score, _ in row), tuple(area for _, area in row)) for row in limits]
    others = [found[0]] * len(pairs) if len(pairs) < ENOUGH_IMAGES else [found[1 + k] for k in part.tolist()]
    return Chosen(found[0], tuple(others), tuple(own))


def parts_of(groups: Sequence[str]) -> NDArray[np.int64]:
    """int64 (N,): the part of each image, groups whole, the largest groups dealt out first."""
    names, index, counts = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    number = min(PARTS, len(names))
    sizes, part_of = np.zeros(number, np.int64), np.zeros(len(names), np.int64)
    for group in np.argsort(-counts, kind="stable").tolist():
        part_of[group] = int(np.argmin(sizes))
        sizes[part_of[group]] += counts[group]
    return np.asarray(part_of[index], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """The score of each image at each (area, score) candidate, float64 (N, areas, scores); `seen`: has the class."""

    areas: NDArray[np.int64]
    scores: NDArray[np.float32]
    values: Floats
    seen: NDArray[np.bool_]

    def at(self, place: tuple[int, int]) -> tuple[float, int]:
        """(score, area) of a candidate."""
        return float(self.scores[place[1]]), int(self.areas[place[0]])

    def value(self, image: int, place: tuple[int, int]) -> float:
        """The score of an image there."""
        return float(self.values[image, place[0], place[1]])

    def value_at(self, image: int, place: tuple[int, int], other: _Table) -> float:
        """The score of an image at a candidate of the table for all: its score, and any area."""
        return self.value(image, (0, int(np.searchsorted(self.scores, other.scores[place[1]]))))


def _table_for_all(pairs: Sequence[Pair]) -> _Table:
    scores = _candidates([predicted.score for predicted, _ in pairs])
    rows = []
    for predicted, truth in pairs:
        every = np.ones(len(predicted), bool)
        rows.append(_at(overlap(truth, predicted), predicted.score, ~every, every, scores))
    return _Table(np.zeros(1, np.int64), scores, np.stack(rows)[:, None], np.ones(len(pairs), bool))


def _table_of_class(pairs: Sequence[Pair], class_id: int, others_from: float) -> _Table | None:
    """Of one class, the others kept from a score on; None where too little is known of it."""
    areas = np.concatenate([truth.area[truth.class_id == class_id] for _, truth in pairs])
    images = sum(bool((truth.class_id == class_id).any()) for _, truth in pairs)
    found = [predicted.score[predicted.class_id == class_id] for predicted, _ in pairs]
    if images < ENOUGH_IMAGES or len(areas) < MIN_CELLS or not sum(map(len, found)):
        return None
    tried = areas_tried(areas)
    scores = np.union1d(_candidates(found), _candidates([predicted.score for predicted, _ in pairs]))
    seen = np.array([any((each.class_id == class_id).any() for each in pair) for pair in pairs], bool)
    values = np.zeros((len(pairs), len(tried), len(scores)))
    for i in _index(seen):
        predicted, truth = pairs[i]
        of_class, shared = predicted.class_id == class_id, overlap(truth, predicted)
        others = ~of_class & (predicted.score >= np.float32(others_from))
        for a, area in enumerate(tried.tolist()):
            values[i, a] = _at(shared, predicted.score, others, of_class & (predicted.area >= area), scores)
    return _Table(tried, scores, values, seen)


def areas_tried(areas: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (A,), rising: the least areas that are tried for a class whose true cells have these areas."""
    quantiles = np.quantile(areas, AREA_QUANTILES)
    return np.unique(np.concatenate([[0], quantiles[0] * np.array(BELOW), quantiles]).astype(np.int64))


def _at(
    shared: Overlap,
    score: NDArray[np.float32],
    fixed: NDArray[np.bool_],
    swept: NDArray[np.bool_],
    scores: NDArray[np.float32],
) -> Floats:
    """The image's score when the `swept` of its predictions are kept from each of `scores` on, beside the `fixed`."""
    before, order = np.flatnonzero(fixed), np.flatnonzero(swept)
    order = order[np.argsort(-score[order], kind="stable")]
    curve = kept_curve(shared, np.concatenate([before, order]))[len(before) :]
    rising = score[order][::-1]
    return np.asarray(curve[len(rising) - np.searchsorted(rising, scores)])


def _best(table: _Table, images: NDArray[np.bool_]) -> tuple[int, int]:
    """The candidate with the largest mean over some images; with one group there are no others, and all choose."""
    chosen = table.values[images] if images.any() else table.values
    area, score = np.unravel_index(int(np.argmax(chosen.mean(axis=0))), table.values.shape[1:])
    return int(area), int(score)


def _wins(gain: Floats) -> bool:
    """Whether images gain by so many standard errors of their mean."""
    return len(gain) > 1 and float(gain.mean()) > SURE * float(gain.std(ddof=1)) / np.sqrt(len(gain))


def _candidates(scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Distinct scores, rising, at most CANDIDATES of them; 0 where there are none."""
    distinct = np.unique(np.concatenate([np.zeros(0, np.float32), *scores]))
    if not len(distinct):
        return np.zeros(1, np.float32)
    ranks = np.linspace(0, len(distinct) - 1, min(CANDIDATES, len(distinct))).round().astype(int)
    return np.asarray(distinct[np.unique(ranks)])


def _index(chosen: NDArray[np.bool_]) -> list[int]:
    found: list[int] = np.flatnonzero(chosen).tolist()
    return found
