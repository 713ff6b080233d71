"""Computes the CPUs and GPUs that each worker reserves.

A worker reserves GPUs only where the machines have some and its work uses them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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

    def times(self, number: int) -> WorkerResources:
        """What so many of them reserve together, on one node."""
        return WorkerResources(number * self.cpus, number * self.gpus, self.hide_gpus)

    def serves(self, other: WorkerResources) -> bool:
        """Whether a process that reserves this can do the work of `other`: one with a GPU also does without."""
        return self == other or (self.cpus == other.cpus and not other.gpus)

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


def idle_cpus(steps: Sequence[int], threads: Sequence[int], cpus: float, at_once: int) -> list[int]:
    """CPUs that would be idle beside each of some students with so many steps and threads.

    Each finds `cpus` where it is trained, and `at_once` are trained at once, the first ones first. Where all are, the
    first and longest also gets what the others leave when they are done, in the mean over its time.
    """
    found = [max(0, int(cpus) - own) for own in threads]
    if found and at_once >= len(steps):
        left = sum(cpus * (1 - others / max(1, steps[0])) for others in steps[1:])
        found[0] = max(0, int(cpus - threads[0] + left + 0.5))
    return found


def in_the_way(
    nodes: Mapping[str, Mapping[str, float]],
    busy: Sequence[tuple[str, WorkerResources]],
    idle: Sequence[tuple[str, WorkerResources]],
    asked: WorkerResources,
    need: int,
) -> list[int]:
    """Which of the `idle` processes hold what `need` new workers lack, by their index.

    `nodes` are the resources of each node by its id, `busy` and `idle` the processes on them, each with its node. Those
    that hold a GPU go first where GPUs are asked for, else last. What other programs hold is not known here.
    """
    free = {node: {"CPU": held.get("CPU", 0.0), "GPU": held.get("GPU", 0.0)} for node, held in nodes.items()}

    def give(node: str, resources: WorkerResources, sign: int) -> None:
        if node in free:  # else it is gone, and its processes with it
            free[node]["CPU"] += sign * resources.cpus
            free[node]["GPU"] += sign * resources.gpus

    def room() -> dict[str, int]:
        return {node: max(0, asked.workers_on(left)) for node, left in free.items()}

    for node, resources in busy:
        give(node, resources, -1)
    most = room()
    for node, resources in idle:
        give(node, resources, -1)
    ending = []
    for index in sorted(range(len(idle)), key=lambda i: -idle[i][1].gpus if asked.gpus else idle[i][1].gpus):
        node, resources = idle[index]
        fits = room()
        if sum(fits.values()) >= need:
            break
        if node not in free or fits[node] >= most[node]:
            continue
        lacks_cpus = free[node]["CPU"] + 1e-6 < (fits[node] + 1) * asked.cpus
        lacks_gpus = free[node]["GPU"] + 1e-6 < (fits[node] + 1) * asked.gpus
        if lacks_cpus or (lacks_gpus and resources.gpus):
            ending.append(index)
            give(node, resources, +1)
    return ending


def with_noun(number: float, noun: str) -> str:
    """A number with its noun: "1 CPU", "0.5 GPUs"."""
    return f"{number:g} {noun}" + ("" if number == 1 else "s")


def cpu_count() -> int:
    """CPUs that this process may use, which in a container or a job is fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
