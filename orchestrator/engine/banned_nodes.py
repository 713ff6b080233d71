"""Keeps the nodes on which no worker is placed any more, and counts the starts that failed on each node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

START_FAILURES = 3


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
