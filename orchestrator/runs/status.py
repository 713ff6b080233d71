"""Reads how far a run is from its folder alone: its driver may be dead or on another node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cellsemi.configs.loading import config_hash
from cellsemi.orchestrator.events import Event, read_events
from cellsemi.orchestrator.runs.progress_on_disk import Stage, quarantined, stages
from cellsemi.rounds.evaluation import history
from cellsemi.rounds.evaluation.promotion import Decision
from cellsemi.rounds.store import files, lock, run
from cellsemi.rounds.store.run import RunPaths


@dataclass(frozen=True, slots=True)
class Drift:
    """The drift alarms of the last round whose pseudo-labels were compared."""

    round: int
    alarms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """What `cellsemi status` shows.

    `driver` names who works on the run, "" nobody. `teachers` are those of the next round, "" while there are none;
    `drift` is None while no pseudo-labels were compared.
    """

    run: str
    folder: str
    config_hash: str
    finished_rounds: tuple[int, ...]
    working: bool
    driver: str
    stages: tuple[Stage, ...]
    teachers: str
    decisions: tuple[str, ...]
    quarantined: int | None
    drift: Drift | None
    last_event: Event | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def read_status(paths: RunPaths) -> Status:
    """Everything that the run's folder holds; RunError when it is damaged."""
    config = run.read_config(paths)
    holder = lock.read_holder(paths)
    decisions = history.decisions(history.read_manifests(paths))
    last = None
    for last in read_events(paths.events):  # noqa: B007 - the last one is what is asked for
        pass
    return Status(
        run=paths.name,
        folder=str(paths.root),
        config_hash=config_hash(config),
        finished_rounds=tuple(paths.finished_rounds()),
        working=holder is not None,
        driver=_driver(holder),
        stages=tuple(stages(paths)),
        teachers=_teachers(paths, decisions),
        decisions=tuple(f"round {round}: {made.reason}" for round, made in decisions.items()),
        quarantined=quarantined(paths),
        drift=_drift(paths),
        last_event=last,
    )


def _driver(holder: lock.LockHolder | None) -> str:
    if holder is None:
        return ""
    return str(holder) if holder.here else f"{holder}, another machine: whether it still runs cannot be told from here"


def _teachers(paths: RunPaths, decisions: Mapping[int, Decision]) -> str:
    """The models that teach the next round, once there are any."""
    if not decisions:
        return ""
    round = history.standing_round(paths)
    return f"{', '.join(history.read_manifests(paths)[round].students)} of round {round}"


def _drift(paths: RunPaths) -> Drift | None:
    rounds = range(len(list(paths.root.glob("round-*"))) - 1, 0, -1)
    for round in rounds:
        if paths.drift(round).is_file():
            return Drift(round, tuple(files.read_json(paths.drift(round))["alarms"]))
    return None
