"""Counts what the cluster holds now: for how many workers, and why there is no place for one."""

from __future__ import annotations

import ray

from cellsemi.orchestrator.engine.ray_start import alive_nodes
from cellsemi.orchestrator.engine.resources import WorkerResources, with_noun


def workers_that_fit(resources: WorkerResources) -> int:
    """How many workers fit on the nodes of now, whatever else runs on them."""
    return sum(resources.workers_on(node.resources) for node in alive_nodes())


def cluster_resources() -> dict[str, float]:
    """The CPUs and GPUs of all nodes of now, whoever uses them."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return {name: float(found.get(name, 0.0)) for name in ("CPU", "GPU")}


def no_place_message(name: str, resources: WorkerResources, pending: int, patience_s: float) -> str:
    """Why no worker of a job got a place, with the numbers that explain it and the remedy."""
    total, free = cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    return (
        f"{name}: no worker got a place within {patience_s:g} s. {with_noun(pending, 'worker')} waiting for "
        f"{resources} each; the cluster has {with_noun(len(alive_nodes()), 'node')} with "
        f"{with_noun(total['CPU'], 'CPU')} and {with_noun(total['GPU'], 'GPU')}, of which {free.get('CPU', 0.0):g} "
        f"and {free.get('GPU', 0.0):g} are free. Add nodes, wait for other jobs, or lower "
        "engine.cpus_per_worker or engine.gpus_per_worker; the same command goes on where it stopped"
    )
