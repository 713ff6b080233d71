"""A tracker that remembers what it was told, and may fail."""

from __future__ import annotations

from cellsemi.orchestrator.tracking.protocol import Place, Point


class Remembering:
    def __init__(self, place: Place, fails_at: int | None = None) -> None:
        self.place, self.points, self.closed, self._fails_at = place, list[Point](), 0, fails_at

    def log(self, point: Point) -> None:
        if len(self.points) == self._fails_at:
            raise ConnectionError("the server is gone")
        self.points.append(point)

    def close(self) -> None:
        self.closed += 1
