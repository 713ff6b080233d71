"""Defines what a tracker is told, and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Point:
    """What is known of a model of a round: after `step` steps of its training, or (None) when the round is finished.

    `metrics` are numbers by name, `pictures` PNG files by name.
    """

    round: int
    model: str
    step: int | None
    metrics: Mapping[str, float]
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """What tells its figures from those of others, for a tracker that keeps all in one place."""
        return f"scores/{self.model}" if self.step is None else f"round-{self.round:02d}/{self.model}"

    @property
    def at(self) -> int:
        """Where it stands on its axis: steps, or rounds."""
        return self.round if self.step is None else self.step


@dataclass(frozen=True, slots=True)
class Place:
    """The run that is tracked: its name, the project, the folder that a tracker may write into, its settings.

    `online`: what is told may leave the machine, to `address` where there is one. `run_id` stays the same for all
    calls of a run.
    """

    run: str
    project: str
    folder: Path
    run_id: str
    settings: Mapping[str, Any]
    online: bool = False
    address: str | None = None


class Tracker(Protocol):
    """Takes in points. What it raises ends its own work, not that of the run."""

    def log(self, point: Point) -> None:
        """Take in one point."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...
