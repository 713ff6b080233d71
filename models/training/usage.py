"""Measures the time and the memory that a training takes, step by step."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

ROWS = 100  # rows of USAGE_FILE, about
STATM = Path("/proc/self/statm")  # the memory of this process in pages; Linux
MB = 2**20


@dataclass(frozen=True, slots=True)
class Usage:
    """One row of usage.jsonl: after `step` steps.

    `seconds` of training, those of earlier attempts up to the checkpoint included; `memory_mb` that the training
    process holds, without those that make its batches, None where the system does not say; `device_memory_mb`: the most
    that torch has held on a GPU, None on a CPU.
    """

    step: int
    seconds: float
    memory_mb: float | None
    device_memory_mb: float | None

    def to_row(self) -> dict[str, float | None]:
        """Its columns."""
        return asdict(self)


def measure(step: int, seconds: float, device: torch.device) -> Usage:
    """The usage of this process now."""
    on_device = torch.cuda.max_memory_allocated(device) / MB if device.type == "cuda" else None
    return Usage(step, round(seconds, 3), resident_mb(), None if on_device is None else round(on_device, 1))


def resident_mb() -> float | None:
    """The memory that this process holds, in MB; None where the system does not say."""
    if not STATM.is_file():
        return None
    pages = int(STATM.read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / MB, 1)


def is_due(step: int, steps: int) -> bool:
    """Whether a row is written after `step` of `steps`: about ROWS of them, the last step among them."""
    return step == steps or step % max(1, steps // ROWS) == 0
