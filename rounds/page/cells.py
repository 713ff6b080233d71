"""Gathers what the cells of a run are like: their sizes, and how far the teachers agree on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells.instances import Instances, State
from cellsemi.rounds.pseudo_labels.thresholds import Thresholds

HUMAN: State = "human"
FILTERED: tuple[State, ...] = ("accepted", "ignored", "rejected")


@dataclass(frozen=True, slots=True, eq=False)
class Sizes:
    """The areas in pixels of the cells of one class, int64, by state; the limits of the filter, None where none."""

    name: str
    areas: Mapping[State, NDArray[np.int64]]
    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """The cells of a round in one state: how many teachers found them, and how far they agree on the mask.

    `mean` is that of the mean pairwise mask IoU, of the cells that several teachers (or views) found; None where
    there is none.
    """

    round: int
    state: State
    cells: int
    votes: Mapping[int, int]
    several: int
    mean: float | None


def sizes(
    human: Iterable[Instances], filtered: Iterable[Instances], classes: Sequence[str], thresholds: Thresholds | None
) -> list[Sizes]:
    """The sizes of each class: of the cells that people drew, and of the pseudo-labels by state."""
    found: list[dict[State, list[NDArray[np.int64]]]] = [
        {state: [np.zeros(0, np.int64)] for state in (HUMAN, *FILTERED)} for _ in classes
    ]
    for cells, states in [(human, (HUMAN,)), (filtered, FILTERED)]:
        for each in cells:
            state_of = np.array(each.state)
            for class_id in np.unique(each.class_id).tolist():
                own = each.class_id == class_id
                for state in states:
                    found[class_id][state].append(each.area[own & (state_of == state)])
    return [
        Sizes(name, {state: np.concatenate(parts) for state, parts in of_class.items()}, *_limits(name, thresholds))
        for name, of_class in zip(classes, found, strict=True)
    ]


def _limits(name: str, thresholds: Thresholds | None) -> tuple[int | None, int | None]:
    if thresholds is None:
        return None, None
    chosen = thresholds.by_class[name]
    return chosen.min_area_px or None, chosen.max_area_px


def agreement(round: int, filtered: Iterable[Instances]) -> list[Agreement]:
    """Of the filtered pseudo-labels of a round, by state."""
    votes: dict[State, Counter[int]] = {state: Counter() for state in FILTERED}
    values: dict[State, list[NDArray[np.float32]]] = {state: [np.zeros(0, np.float32)] for state in FILTERED}
    for cells in filtered:
        state_of = np.array(cells.state)
        for state in FILTERED:
            own = state_of == state
            votes[state].update(cells.votes[own].tolist())
            values[state].append(cells.agreement[own & (cells.votes > 1)])
    found = []
    for state in FILTERED:
        several = np.concatenate(values[state])
        mean = float(several.mean(dtype=np.float64)) if len(several) else None
        found.append(
            Agreement(round, state, votes[state].total(), dict(sorted(votes[state].items())), len(several), mean)
        )
    return found
