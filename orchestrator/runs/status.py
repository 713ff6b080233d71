"""Reads how far a run is from its folder alone: its driver may be dead or on another node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

from cellsemi.configs.loading import config_hash
from cellsemi.orchestrator.engine.usage import NodeLoad, Seconds
from cellsemi.orchestrator.events import Event
from cellsemi.orchestrator.runs.activity import Activity, Current, Loss, StageUse
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
    `drift` is None while no pseudo-labels were compared. `workers` are those of now by node, none without a driver;
    `incidents` counts all by kind, `losses` are the last ones. `used` says what each stage used of workers and GPUs.
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
    current: Current | None
    silent_s: float | None
    workers: Mapping[str, NodeLoad]
    cluster_gpus: float | None
    incidents: dict[str, int]
    losses: tuple[Loss, ...]
    used: tuple[StageUse, ...]
    worker_seconds: Seconds
    gpu_seconds: Seconds

    def to_json(self) -> dict[str, Any]:
        """Plain values; `idle` beside the other seconds."""
        content = asdict(self)
        for each, found in zip(content["used"], self.used, strict=True):
            each["workers"]["idle"], each["gpus"]["idle"] = found.workers.idle, found.gpus.idle
        content["worker_seconds"]["idle"] = self.worker_seconds.idle
        content["gpu_seconds"]["idle"] = self.gpu_seconds.idle
        return content


def read_status(paths: RunPaths, activity: Activity | None = None) -> Status:
    """Everything that the run's folder holds; RunError when it is damaged. `activity` has read its events already."""
    if activity is None:
        activity = Activity(paths.events)
        activity.follow()
    config = run.read_config(paths)
    holder = lock.read_holder(paths)
    decisions = history.decisions(history.read_manifests(paths))
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
        last_event=activity.last,
        current=activity.current,
        silent_s=activity.silent_s,
        workers=activity.nodes if holder is not None else {},
        cluster_gpus=activity.cluster_gpus,
        incidents=activity.counts,
        losses=activity.losses,
        used=activity.use,
        worker_seconds=_sum(use.workers for use in activity.use),
        gpu_seconds=_sum(use.gpus for use in activity.use),
    )


def _sum(parts: Iterable[Seconds]) -> Seconds:
    return reduce(Seconds.plus, parts, Seconds())


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
