"""Computes the figures of image shards of a run, as they lie there: states, reasons and scores of their cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cellsemi.rounds.datasets.export import class_names
from cellsemi.rounds.formats.shards import IMPORT_FILE
from cellsemi.rounds.inspect.statistics import IGNORED
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.shards import read_folder, shard_paths

QUANTILES = (5, 25, 50, 75, 95)  # per cent, of the scores in a state


@dataclass(frozen=True, slots=True)
class StateFigures:
    """The cells in one state: how many of each class and of each reason, and the quantiles of their scores."""

    cells: int
    classes: dict[str, int]
    reasons: dict[str, int]
    score: dict[str, float]  # quantile in per cent -> score


@dataclass(frozen=True, slots=True)
class ShardFigures:
    """The figures of a folder of shards. `without_pixels` counts images whose pixels lie elsewhere in the run."""

    folder: str
    images: int
    by_split: dict[str, int]
    without_cells: int
    without_pixels: int
    states: dict[str, StateFigures]

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def is_loose(folder: Path) -> bool:
    """Whether a folder holds image shards and is no import."""
    return folder.is_dir() and bool(shard_paths(folder)) and not (folder / IMPORT_FILE).is_file()


def shard_figures(folder: Path, on_image: Callable[[int], None]) -> tuple[ShardFigures, tuple[str, ...]]:
    """The figures of a folder of shards, one image in memory at a time, and the names of its classes.

    RunError when a shard cannot be read.
    """
    classes = class_names(folder, [folder])
    by_split: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    of_state: dict[str, list[tuple[str, str, float]]] = {}
    for done, record in enumerate(read_folder(folder), start=1):
        by_split[record.split] += 1
        counts["without pixels"] += record.image is None
        counts["without cells"] += record.instances is None
        for state, name, reason, score in _cells(record, classes):
            of_state.setdefault(state, []).append((name, reason, score))
        on_image(done)
    states = {state: _figures(cells) for state, cells in sorted(of_state.items())}
    images = by_split.total()
    found = ShardFigures(str(folder), images, dict(by_split), counts["without cells"], counts["without pixels"], states)
    return found, classes


def _cells(record: ImageRecord, classes: tuple[str, ...]) -> Iterator[tuple[str, str, str, float]]:
    """State, class, reason and score of each cell."""
    cells = record.instances
    if cells is not None:
        names = (classes[i] for i in cells.class_id.tolist())
        yield from zip(cells.state, names, cells.reason, cells.score.tolist(), strict=True)


def _figures(cells: list[tuple[str, str, float]]) -> StateFigures:
    scores = np.percentile([score for _, _, score in cells], QUANTILES).tolist()
    return StateFigures(
        cells=len(cells),
        classes=dict(Counter(name for name, _, _ in cells).most_common()),
        reasons=dict(Counter(reason for _, reason, _ in cells if reason).most_common()),
        score=dict(zip(map(str, QUANTILES), scores, strict=True)),
    )


def kinds_of_states(record: ImageRecord, classes: tuple[str, ...]) -> list[str]:
    """The kind of each cell for a picture: its class and, where it is not accepted or human, its state."""
    found = []
    for state, name, _, _ in _cells(record, classes):
        found.append(IGNORED if state == "ignored" else name if state in ("human", "accepted") else f"{name}, {state}")
    return found
