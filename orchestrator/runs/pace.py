"""Measures how fast a stage goes, and how long it still takes."""

from __future__ import annotations

from collections import deque

from cellsemi.orchestrator.events import Clock
from cellsemi.rounds.duration import duration

PACE_WINDOW_S = 60.0  # the rate is measured over the last minute
FOUND_DONE_S = 0.5  # work reported this soon after the start was done by an earlier call


class Pace:
    """The speed of one stage: the rate over the last minute, and the time left at that rate.

    Work reported in the first half second was done by an earlier call and does not count.
    """

    def __init__(self, total: int, unit: str, clock: Clock) -> None:
        self.total, self.unit = total, unit
        self.done = 0
        self._clock = clock
        self._start = clock()
        self._samples = deque([(self._start, 0)])

    def advance(self, done: int) -> None:
        """Record that `done` units are done now; a smaller number than before is ignored."""
        now = self._clock()
        self.done = max(self.done, done)
        if now - self._start < FOUND_DONE_S:
            self._samples.clear()
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and now - self._samples[1][0] > PACE_WINDOW_S:
            self._samples.popleft()

    def rate(self) -> float | None:
        """Units per second; None before anything was measured."""
        (first_s, first), (last_s, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_s - first_s) if last > first and last_s > first_s else None

    def remaining_s(self) -> float | None:
        """Seconds left at this rate, counted down between two reports; None while unknown."""
        rate = self.rate()
        if rate is None:
            return None
        since = self._clock() - self._samples[-1][0]
        return max((self.total - self.done) / rate - since, 0.0)

    def words(self) -> str:
        """`2.1/s, 13 s left`; empty before anything was measured."""
        rate, left = self.rate(), self.remaining_s()
        if rate is None or left is None:
            return ""
        speed = f"{rate:.1f}/s" if rate >= 0.5 else f"{rate * 60:.1f}/min"
        return f"{speed}, {duration(round(left))} left" if self.done < self.total else speed
