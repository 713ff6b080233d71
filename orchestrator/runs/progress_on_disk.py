"""Reads how far the steps of a run are, from its folder alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cellsemi.models.model_files import read_progress
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths
from cellsemi.rounds.store.steps import StepRecord, StepState, done_on_disk, read_steps


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a round that is done or begun; `done` and `total` count `unit`s, None where unknown."""

    round: int
    name: str
    state: StepState
    done: int | None
    total: int | None
    unit: str
    seconds: float | None


def stages(paths: RunPaths) -> Iterator[Stage]:
    """Every step that was begun, in the order of the work and with the names of the events.

    Predictions of unlabelled images lie in the folder of the model, but are work of the round after.
    """
    for record in read_steps(paths):
        total = record.total or None
        yield Stage(record.round, record.name, record.state, _done(paths, record), total, record.unit, record.seconds)


def _done(paths: RunPaths, record: StepRecord) -> int | None:
    steps = read_progress(paths.root / record.output) if record.state == "begun" else None
    if steps is not None:
        return steps
    return done_on_disk(paths, record)


def models_of(paths: RunPaths, round: int) -> list[str]:
    """The folders of a round's models by name, with folds one per fold; ensembles last: they are made of the others."""
    names = [path.name for path in (paths.round(round) / "students").glob("*")]
    return sorted(names, key=lambda name: (name.partition(".")[0] == ENSEMBLE, name))


def quarantined(paths: RunPaths) -> int | None:
    """How many images could not be used; None while the data set has not been read."""
    if not paths.quarantine.is_file():
        return None
    from cellsemi.rounds.store.shards import count_rows

    return count_rows(paths.quarantine)
