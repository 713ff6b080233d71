"""Follows the events of a run: what goes on now and how fast, who works where, what was lost, what was used for what.

It reads events.jsonl alone, and goes on where it stopped, so that a look at a long run costs what is new. The log holds
the events of all drivers that have worked on the run, so a restart loses nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from cellsemi.orchestrator.engine.protocol import IncidentKind
from cellsemi.orchestrator.engine.usage import NodeLoad, Seconds
from cellsemi.orchestrator.events import Event, parse_event
from cellsemi.orchestrator.runs.pace import Pace

LOSSES: tuple[IncidentKind, ...] = ("lost", "frozen", "preempted", "banned", "quarantined", "waiting")
LAST_LOSSES = 5
BETWEEN = "between stages"


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that a stage lost, or waits for. `time` is UTC as ISO 8601."""

    time: str
    kind: IncidentKind
    message: str
    node: str
    round: int
    stage: str


@dataclass(frozen=True, slots=True)
class StageUse:
    """What one stage used, over all drivers that have worked on it; BETWEEN: while no stage was at work."""

    round: int
    stage: str
    workers: Seconds
    gpus: Seconds


@dataclass(frozen=True, slots=True)
class Current:
    """The stage at work: `rate` in units per second, None while unknown, as are the seconds that are left."""

    round: int
    stage: str
    done: int
    total: int
    unit: str
    rate: float | None
    left_s: float | None
    words: str


class Activity:
    """What the events of a log say so far; `follow` reads those that are new. `now` gives the time as time.time()."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, now
        self._offset = 0
        self._event_s = 0.0  # of the event that is taken in
        self._live = False  # whether the pace is asked for now, or fed
        self._pace: Pace | None = None
        self._where = (0, BETWEEN)
        self._use: dict[tuple[int, str], tuple[Seconds, Seconds]] = {}
        self._losses: deque[Loss] = deque(maxlen=LAST_LOSSES)
        self.incidents: Counter[tuple[int, IncidentKind]] = Counter()  # by round and kind
        self.nodes: Mapping[str, NodeLoad] = {}
        self.cluster_gpus: float | None = None
        self.last: Event | None = None

    def follow(self) -> list[Event]:
        """The events since the last call, oldest first; a line that is still being written waits for the next call."""
        if not self._path.is_file():
            return []
        new = []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                with contextlib.suppress(ValidationError):  # a crash cut it
                    new.append(parse_event(line))
        for event in new:
            self._take(event)
        return new

    @property
    def losses(self) -> tuple[Loss, ...]:
        """The last ones, oldest first."""
        return tuple(self._losses)

    @property
    def use(self) -> tuple[StageUse, ...]:
        """What each stage used, in the order of their beginning within a round."""
        found = [StageUse(*where, *seconds) for where, seconds in self._use.items()]
        return tuple(sorted(found, key=lambda use: use.round))

    @property
    def counts(self) -> dict[str, int]:
        """The incidents of all rounds by kind."""
        found: Counter[str] = Counter()
        for (_, kind), count in self.incidents.items():
            found[kind] += count
        return dict(sorted(found.items()))

    @property
    def silent_s(self) -> float | None:
        """Seconds since the last event, by the clock of this machine; None without events."""
        return None if self.last is None else max(0.0, self._clock() - _seconds(self.last))

    @property
    def current(self) -> Current | None:
        """The stage at work; None between two."""
        if self._pace is None:
            return None
        self._live = True
        pace, (round, stage) = self._pace, self._where
        try:
            left_s, words = pace.remaining_s(), pace.words()
            return Current(round, stage, pace.done, pace.total, pace.unit, pace.rate(), left_s, words)
        finally:
            self._live = False

    def _take(self, event: Event) -> None:
        self.last, self._event_s = event, _seconds(event)
        before = self._where if self._pace is not None else (event.round, BETWEEN)
        if event.event == "stage":
            before = (event.round, BETWEEN)
            self._where = (event.round, event.stage)
            self._pace = Pace(event.total, event.unit, self._time)
        elif event.event == "skipped":
            self._pace = None
            before = (event.round, BETWEEN)
        elif event.event == "advance" and self._pace is not None:
            self._pace.advance(event.done)
        elif event.event == "finish":
            self._pace = None
        elif event.event == "incident" and event.incident is not None:
            self.incidents[event.round, event.incident] += 1
            if event.incident in LOSSES:
                told = (event.time, event.incident, event.message, event.node, event.round, event.stage)
                self._losses.append(Loss(*told))
        self._add(event, before)

    def _add(self, event: Event, where: tuple[int, str]) -> None:
        if event.usage is None:
            return
        workers, gpus = self._use.get(where, (Seconds(), Seconds()))
        self._use[where] = (workers.plus(event.usage.workers), gpus.plus(event.usage.gpus))
        if event.usage.nodes is not None:
            self.nodes = event.usage.nodes
        if event.usage.cluster_gpus is not None:
            self.cluster_gpus = event.usage.cluster_gpus

    def _time(self) -> float:
        return self._clock() if self._live else self._event_s


def _seconds(event: Event) -> float:
    return datetime.fromisoformat(event.time).timestamp()
