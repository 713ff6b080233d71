"""Computes the CPUs and GPUs that each worker reserves.

A worker reserves GPUs only where the machines have some and its work uses them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cellsemi.configs.rounds import AUTO
from cellsemi.configs.schema import EngineConfig


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """The CPUs and GPUs of one worker. `hide_gpus`: the worker must not see any GPU.

    Ray shows all GPUs to workers that reserve none, and `device: auto` would then put every worker on the
    same one. With `device: cuda` the GPUs stay visible: the user has asked for them.
    """

    cpus: float
    gpus: float
    hide_gpus: bool

    def workers_on(self, node: Mapping[str, float]) -> int:
        """How many such workers fit on a node with these resources (Ray's names), whatever else runs there."""
        most = node.get("CPU", 0.0) / self.cpus
        if self.gpus:
            most = min(most, node.get("GPU", 0.0) / self.gpus)
        return int(most + 1e-6)  # 1 / 0.1 workers

    def cpus_for_each(self, node: Mapping[str, float], workers: int) -> float:
        """The CPUs of a node for each of its workers, when it has as many of `workers` as fit; all where none does."""
        return node.get("CPU", 0.0) / max(1, min(self.workers_on(node), workers))

    def __str__(self) -> str:
        return f"{with_noun(self.cpus, 'CPU')} and {with_noun(self.gpus, 'GPU')}"


def resources_per_worker(config: EngineConfig, uses_device: bool, total_gpus: float) -> WorkerResources:
    """What each worker of a job reserves where the machines have `total_gpus` GPUs.

    `gpus_per_worker: auto` is one GPU per worker where there are any. Work that does not use the device
    reserves none, so that it spreads over the CPUs.
    """
    gpus = config.gpus_per_worker
    if gpus == AUTO:
        gpus = 1.0 if total_gpus else 0.0
    if not uses_device or config.device == "cpu":
        gpus = 0.0
    return WorkerResources(config.cpus_per_worker, gpus, hide_gpus=not gpus and not config.device.startswith("cuda"))


def with_noun(number: float, noun: str) -> str:
    """A number with its noun: "1 CPU", "0.5 GPUs"."""
    return f"{number:g} {noun}" + ("" if number == 1 else "s")


def cpu_count() -> int:
    """CPUs that this process may use, which in a container or a job is fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
