"""What a worker claims of the machines: CPUs, and GPUs where its work uses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cellsemi.configs.rounds import AUTO
from cellsemi.configs.schema import EngineConfig


@dataclass(frozen=True, slots=True)
class Claim:
    """The resources of one worker. `hide_gpus`: it must not see any.

    Ray shows all GPUs to workers that reserve none; `device: auto` would put every worker on the same one.
    Who says `device: cuda` without reserving means it.
    """

    cpus: float
    gpus: float
    hide_gpus: bool

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many such workers a node with these resources (Ray's names) holds, whatever else runs there."""
        most = resources.get("CPU", 0.0) / self.cpus
        if self.gpus:
            most = min(most, resources.get("GPU", 0.0) / self.gpus)
        return int(most + 1e-6)  # 1 / 0.1 workers

    def __str__(self) -> str:
        return f"{counted(self.cpus, 'CPU')} and {counted(self.gpus, 'GPU')}"


def claim_of(config: EngineConfig, uses_device: bool, gpus_there: float) -> Claim:
    """The claim of a job's workers where the cluster has so many GPUs.

    `gpus_per_worker: auto` is one GPU a worker where there are any. Work that does not use the device
    claims none, so that it spreads over the CPUs.
    """
    wanted = config.gpus_per_worker
    if wanted == AUTO:
        wanted = 1.0 if gpus_there else 0.0
    if not uses_device or config.device == "cpu":
        wanted = 0.0
    return Claim(config.cpus_per_worker, wanted, hide_gpus=not wanted and not config.device.startswith("cuda"))


def counted(number: float, noun: str) -> str:
    """A number with its noun: "1 CPU", "0.5 GPUs"."""
    return f"{number:g} {noun}" + ("" if number == 1 else "s")
