"""Records what a run does: one JSON line for each event, which is then passed to a watcher."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cellsemi.orchestrator.engine.protocol import Incident, IncidentKind
from cellsemi.orchestrator.engine.usage import NodeLoad, Usage

Clock = Callable[[], float]
EventKind = Literal["stage", "advance", "note", "incident", "finish", "skipped"]  # a method of Watcher each

LOG_EVERY_S = 1.0  # between two `advance` events of one stage
USAGE_EVERY_S = 10.0  # an `advance` carries the usage not more often; every other event does


class Watcher(Protocol):
    """Receives the events of a campaign and shows them, records them, or does nothing."""

    def stage(self, round: int | None, name: str, total: int, unit: str) -> None:
        """A stage begins, e.g. round 1, "predict unlabelled with unet-a", 48, "images"; round None: of no round."""
        ...

    def advance(self, done: int) -> None:
        """`done` units of the current stage are finished: a total, which never falls and may jump."""
        ...

    def note(self, message: str) -> None:
        """A sentence to keep, such as a promotion decision or a quarantine count."""
        ...

    def incident(self, incident: Incident) -> None:
        """Something went wrong in the current stage and did not end it, or was done about it."""
        ...

    def finish(self, seconds: float) -> None:
        """The current stage ended after `seconds`."""
        ...

    def skipped(self, round: int, name: str) -> None:
        """An earlier call has finished the stage."""
        ...


class SilentWatcher:
    """Shows nothing: for `--json`, and for tests."""

    def stage(self, round: int | None, name: str, total: int, unit: str) -> None:
        """Nothing."""

    def advance(self, done: int) -> None:
        """Nothing."""

    def note(self, message: str) -> None:
        """Nothing."""

    def incident(self, incident: Incident) -> None:
        """Nothing."""

    def finish(self, seconds: float) -> None:
        """Nothing."""

    def skipped(self, round: int, name: str) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Event:
    """One line of events.jsonl, validated when it is read.

    `time` is UTC as ISO 8601, `seconds` of a `finish`; `incident`, `node` and `item` of an `incident` (see Incident).
    `usage` is that since the last event which carries one; their sum over a stage is what the stage used. Its `nodes`
    are None where they are as before.
    """

    time: str
    event: EventKind
    round: int
    stage: str
    done: int
    total: int
    unit: str
    seconds: float | None = None
    message: str = ""
    incident: IncidentKind | None = None
    node: str = ""
    item: int | None = None
    usage: Usage | None = None


_EVENT = TypeAdapter(Event)
OnEvent = Callable[[Event], None]


class EventLog:
    """Writes every event to a JSON-lines file, then passes it on to another watcher.

    Each line is one write: a killed process loses at most the last line, which `read_events` skips. `advance`
    is written at most once in LOG_EVERY_S, and always when the stage is complete. `take_usage` is that of the engine;
    `on_event` takes in what was written.
    """

    def __init__(
        self,
        watcher: Watcher,
        path: Path,
        clock: Clock = time.monotonic,
        *,
        take_usage: Callable[[], Usage] | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self._watcher, self._path, self._clock = watcher, path, clock
        self._round, self._stage, self._unit = 0, "", ""
        self._done = self._total = 0
        self._written_s = clock()
        self._take_usage, self._taken_s = take_usage, clock()
        self._on_event = on_event
        self._nodes: Mapping[str, NodeLoad] | None = None  # as written last by this driver
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_cut_line(path)

    def stage(self, round: int | None, name: str, total: int, unit: str) -> None:
        """Written and passed on."""
        self._round, self._stage, self._unit = round or 0, name, unit
        self._done, self._total = 0, total
        self._write("stage")
        self._watcher.stage(round, name, total, unit)

    def advance(self, done: int) -> None:
        """Passed on; written at most once in LOG_EVERY_S."""
        news = done > self._done
        self._done = max(done, self._done)
        if news and (self._done == self._total or self._clock() - self._written_s >= LOG_EVERY_S):
            self._write("advance")
        self._watcher.advance(done)

    def note(self, message: str) -> None:
        """Written and passed on."""
        self._write("note", message=message)
        self._watcher.note(message)

    def incident(self, incident: Incident) -> None:
        """Written and passed on."""
        self._write("incident", incident=incident)
        self._watcher.incident(incident)

    def finish(self, seconds: float) -> None:
        """Written and passed on."""
        self._write("finish", seconds=round(seconds, 3))
        self._watcher.finish(seconds)

    def skipped(self, round: int, name: str) -> None:
        """Written and passed on."""
        self._round, self._stage, self._unit = round, name, ""
        self._done = self._total = 0
        self._write("skipped")
        self._watcher.skipped(round, name)

    def _write(
        self, kind: EventKind, seconds: float | None = None, message: str = "", incident: Incident | None = None
    ) -> None:
        event = Event(
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            event=kind,
            round=self._round,
            stage=self._stage,
            done=self._done,
            total=self._total,
            unit=self._unit,
            seconds=seconds,
            message=message if incident is None else incident.message,
            incident=None if incident is None else incident.kind,
            node="" if incident is None else incident.node,
            item=None if incident is None else incident.item,
            usage=self._usage(kind),
        )
        with self._path.open("ab") as file:
            file.write(_EVENT.dump_json(event, exclude_defaults=True) + b"\n")
        self._written_s = self._clock()
        if self._on_event is not None:
            self._on_event(event)

    def _usage(self, kind: EventKind) -> Usage | None:
        """What this event says of the usage; None where there is nothing to say."""
        if self._take_usage is None or (kind == "advance" and self._clock() - self._taken_s < USAGE_EVERY_S):
            return None
        self._taken_s = self._clock()
        usage = self._take_usage()
        before, self._nodes = self._nodes, usage.nodes
        return usage.rounded(None if usage.nodes == before else usage.nodes)


def parse_event(line: bytes) -> Event:
    """The event of a line; ValidationError for one that a crash cut."""
    return _EVENT.validate_json(line)


def read_events(path: Path) -> Iterator[Event]:
    """The events of a log, oldest first; a line that a crash cut is skipped, no file means no events."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValidationError):
                yield parse_event(line)


def _end_cut_line(path: Path) -> None:
    """End the line that a crash cut, so that it does not swallow the next event."""
    if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")
