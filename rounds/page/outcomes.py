"""Tells the right, the false and the missed cells of an image, and chooses the images that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.matching import match, overlap, scorable
from cellsemi.rounds.evaluation.metrics import ImageScore


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The cells of one image at IoU > .5: predictions that are right and that are false, and true cells missed.

    `ignored` are what people marked to be ignored: neither asked for nor counted.
    """

    right: Instances
    false: Instances
    missed: Instances
    ignored: Instances


def outcome(predicted: Instances, truth: Instances, cutoffs: Cutoffs) -> Outcome:
    """Of the predictions that the cutoffs keep, at IoU > .5 whatever the class."""
    kept, human = scorable(predicted, truth)
    kept = cutoffs.kept(kept)
    rows, columns = match(overlap(human, kept))
    found = np.zeros(len(kept), bool)
    found[columns] = True
    seen = np.zeros(len(human), bool)
    seen[rows] = True
    return Outcome(kept.select(found), kept.select(~found), human.select(~seen), truth.in_state("ignored"))


def worst(scores: Sequence[ImageScore], count: int) -> list[ImageScore]:
    """The images with the lowest scores, the lowest first; of equal ones those with more false and missed cells."""

    def key(score: ImageScore) -> tuple[float, int, str]:
        return score.total.ap, -(score.total.fp50 + score.total.fn50), score.image_id

    return sorted(scores, key=key)[:count]


def drawn(scores: Sequence[ImageScore], count: int, seed: int) -> list[ImageScore]:
    """Some images by chance, in the order of their scores; all of them where there are no more."""
    taken = np.random.default_rng(seed).permutation(len(scores))[:count]
    return worst([scores[place] for place in taken.tolist()], count)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What became of the accepted cells of one image from a round to the next: `kept` are the new masks."""

    image_id: str
    kept: Instances
    gained: Instances
    lost: Instances

    @property
    def size(self) -> int:
        """How many cells came or went."""
        return len(self.gained) + len(self.lost)


def change(image_id: str, before: Instances, after: Instances) -> Change:
    """Of the filtered pseudo-labels of two rounds: a cell is kept where both accepted it, at IoU > .5."""
    old, new = before.in_state("accepted"), after.in_state("accepted")
    rows, columns = match(overlap(old, new))
    stayed = np.zeros(len(new), bool)
    stayed[columns] = True
    known = np.zeros(len(old), bool)
    known[rows] = True
    return Change(image_id, new.select(stayed), new.select(~stayed), old.select(~known))
