"""Counts the attempts of each item and the starts on each node, and decides what is tried again, and where.

- An attempt counts when the item itself may be the cause: an error, a crash, a silent worker.
- When its machine is gone, none counts; but one item cannot take machines with it for ever (FREE_LOSSES).
- An item whose worker ran out of memory gets along with half of it, then with a quarter, before it is given up. The
  system ends a process that takes too much memory without a word, as anybody may who kills it. So only the second
  such end of an item counts as want of memory: with less of it the numbers of a network may differ in the last bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from cellsemi.orchestrator.engine.protocol import Failure, Incident
from cellsemi.orchestrator.engine.scheduling_rules import Memory

LEAST_MEMORY = 2  # halvings
FREE_LOSSES = 20
START_FAILURES = 3


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


class StartFailures:
    """Starts that failed in a row, by node; "" where the node is not known.

    An attempt counts only if it began after the failure before it, so all workers of a node that die count once.
    """

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()
        self._counted_from: Counter[str] = Counter()  # smaller workers were asked for before the last one counted

    def count(self, node: str, worker: int, next_worker: int) -> bool:
        """Count the failure of a worker; whether that was one too many."""
        if worker < self._counted_from[node]:
            return False
        self._counted_from[node] = next_worker
        self._in_a_row[node] += 1
        return self.too_many(node)

    def too_many(self, node: str) -> bool:
        """Whether workers have failed to start there START_FAILURES times in a row."""
        return self._in_a_row[node] >= START_FAILURES

    def started(self, node: str) -> None:
        """A worker has started there: the row ends."""
        self._in_a_row[node] = self._in_a_row[""] = 0

    def words(self, node: str, error: str) -> str:
        """What happened, with the last error."""
        return f"workers failed to start {self._in_a_row[node]} times in a row; last: {error}"


def none_left(banned: Mapping[str, str], nodes: Collection[str]) -> str:
    """Why no node is left: each reason once, with the nodes that it was found on where there are several.

    >>> none_left({"a": "no mount", "b": "no mount", "c": "old"}, ["a", "b", "c"]), none_left({"a": "old"}, ["a"])
    ('no mount (tried on nodes a, b); old (tried on node c)', 'old')
    """
    if len(nodes) == 1:
        return "".join(banned[node] for node in nodes)
    tried: dict[str, list[str]] = {}
    for node in sorted(nodes):
        tried.setdefault(banned[node], []).append(node)
    return "; ".join(
        f"{why} (tried on {'node' if len(there) == 1 else 'nodes'} {', '.join(there)})" for why, there in tried.items()
    )
