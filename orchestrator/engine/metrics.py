"""Counts for Prometheus what workers do, through Ray: the agent of each node serves it, nothing of ours listens.

Only where Ray serves metrics at all (`ray[default]`); elsewhere, and in-process, nothing is counted.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

Observe = Callable[[float, bool], None]  # an item took so many seconds, and ended well or not
BUCKETS_S = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0, 36000.0]


def serves_metrics(node_id: str | None = None) -> bool:
    """Whether the Ray of this process serves metrics, on the node of this id or on any; False without Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    return any(
        node["Alive"] and node.get("MetricsExportPort", -1) > 0 and node_id in (None, node["NodeID"])
        for node in ray.nodes()
    )


def item_metrics(job: str) -> Observe:
    """What a worker calls for each item of a job; it does nothing where Ray serves no metrics."""
    import ray

    if not serves_metrics(ray.get_runtime_context().get_node_id()):
        return _ignore
    items, seconds, histogram = _item_metrics()

    def observe(took_s: float, well: bool) -> None:
        tags = {"job": job, "outcome": "done" if well else "failed"}
        items.inc(1, tags)
        if took_s > 0:  # a Counter takes nothing else
            seconds.inc(took_s, tags)
        histogram.observe(took_s, {"job": job})

    return observe


def _ignore(_: float, __: bool) -> None:
    pass


@functools.cache
def _item_metrics() -> tuple[Any, Any, Any]:
    """Made once in a process: Ray keeps them by name."""
    from ray.util.metrics import Counter, Histogram

    tags = ("job", "outcome")
    return (
        Counter("cellsemi_items_total", "Shards and students that workers ended.", tags),
        Counter("cellsemi_item_seconds_total", "Seconds that they took, by the worker's clock.", tags),
        Histogram("cellsemi_item_seconds", "Seconds of one shard or student.", BUCKETS_S, ("job",)),
    )
