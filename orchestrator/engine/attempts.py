"""Counts the attempts of each item, and decides whether it is tried again, and with how much memory.

- An attempt counts when the item itself may be the cause: an error, a crash, a silent worker.
- When its machine is gone, none counts; but one item cannot take machines with it for ever (FREE_LOSSES).
- An item whose worker ran out of memory gets along with half of it, then with a quarter, before it is given up. The
  system ends a process that takes too much memory without a word, as anybody may who kills it. So only the second
  such end of an item counts as want of memory: with less of it the numbers of a network may differ in the last bits.
"""

from __future__ import annotations

from collections import Counter

from cellsemi.orchestrator.engine.protocol import Failure, Incident
from cellsemi.orchestrator.engine.scheduling_rules import Memory

LEAST_MEMORY = 2  # halvings
FREE_LOSSES = 20


class Attempts:
    """The attempts of all items of one scheduler."""

    def __init__(self, most: int) -> None:
        self.failed: list[Failure] = []
        self._most = most
        self._count: Counter[int] = Counter()
        self._killed: Counter[int] = Counter()
        self._free: Counter[int] = Counter()
        self._halvings: Counter[int] = Counter()

    def halvings(self, item: int) -> int:
        """How often the memory of the next attempt is halved."""
        return self._halvings[item]

    def is_free(self, item: int) -> bool:
        """Whether one more loss of a machine costs the item no attempt."""
        self._free[item] += 1
        return self._free[item] <= FREE_LOSSES

    def charge(self, item: int, error: str, node: str, *, final: bool = False, memory: Memory = "enough") -> Incident:
        """Count an attempt: the item is "retried", or "quarantined" and from now on in `failed`."""
        self._count[item] += 1
        attempts = self._count[item]
        less = not final and self._take_less(item, memory)
        if not final and (attempts < self._most or (less and memory == "short")):
            parts = f" with 1/{2 ** self._halvings[item]} of the memory, where it can" if less else ""
            message = f"item {item} is tried again{parts}, {attempts} of {self._most} attempts failed: {error}"
            return Incident("retried", message, node, item)
        self.failed.append(Failure(item, attempts, error))
        of = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        return Incident("quarantined", f"item {item} is given up after {of}: {error}", node, item)

    def _take_less(self, item: int, memory: Memory) -> bool:
        self._killed[item] += memory == "unknown"
        less = memory == "short" or (memory == "unknown" and self._killed[item] > 1)
        if less and self._halvings[item] < LEAST_MEMORY:
            self._halvings[item] += 1
            return True
        return False
