"""Samples the cells that are shown of each reason for which pseudo-labels were not accepted."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.pseudo_labels.filter import count_reasons


@dataclass(frozen=True, slots=True, order=True)
class Sample:
    """Cell `cell` of an image; `place` is drawn from [0, 1) and orders the cells of a reason."""

    place: float
    image_id: str
    cell: int


def sample_cells(images: Iterable[tuple[str, Instances]], count: int, seed: int) -> dict[str, list[Sample]]:
    """By state and reason (filter.count_reasons) at most `count` cells, each cell of it equally likely.

    The images are read one by one, and the draw of a cell depends on nothing but the seed and its own number.
    """
    found: dict[str, list[Sample]] = {}
    for number, (image_id, cells) in enumerate(images):
        places = np.random.default_rng([seed, number]).random(len(cells)).tolist()
        for cell, place in enumerate(places):
            (reason,) = count_reasons(cells.select([cell]))
            found.setdefault(reason, []).append(Sample(place, image_id, cell))
        found = {reason: heapq.nsmallest(count, each) for reason, each in found.items()}
    return dict(sorted(found.items()))
