"""Makes the batches of a training ahead of its steps, in processes of their own.

A batch is a function of its step alone, so the bits that a network learns from do not depend on the number of
processes, nor on where a training was interrupted. torch's DataLoader runs the processes.
"""

from __future__ import annotations

import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from cellsemi.configs.errors import CellsemiError
from cellsemi.models.base import FitTask
from cellsemi.models.training.processes import context, follow_parent, without_main
from cellsemi.models.training.transport import Packed, on_device

log = logging.getLogger(__name__)

B = TypeVar("B")
MakeBatch = Callable[[int], B]  # step -> its batch on the CPU; it is sent to other processes

FEW_STEPS = 50  # a training that has no more left makes its batches itself: processes need seconds to start
MOST = {"cpu": 2, "cuda": 8}  # processes that `auto` starts, by device: a step on a CPU takes longer than its input
SHARED_MEMORY = Path("/dev/shm")  # what processes hand batches over in, on Linux
AHEAD = 2  # batches that each process is ahead


def processes_for(task: FitTask, device: torch.device) -> int:
    """How many processes make the batches of a task on a device."""
    if task.input_processes is not None:
        return task.input_processes
    return min(task.idle_cpus, MOST.get(device.type, 0))


def batches(make: MakeBatch[B], steps: range, processes: int, device: torch.device) -> Generator[B]:
    """The batches of some steps, in order, on a device; made by `processes` processes, 0: by this one.

    An error of cellsemi that `make` raises in a process is raised here. RuntimeError when a process is lost.
    """
    if len(steps) <= FEW_STEPS or processes == 0:
        for step in steps:
            yield on_device(make(step), device)
        return
    first = Packed.of(make(steps[0]))
    yield first.batch(device)
    processes = min(processes, _room(len(first.block)))
    if processes == 0:
        yield from batches(make, steps[1:], 0, device)
        return
    for packed in _started(make, steps[1:], processes, pin=device.type == "cuda"):
        if isinstance(packed, CellsemiError):
            raise packed
        yield packed.batch(device)


def _room(batch_bytes: int) -> int:
    """The processes whose batches fit into half of the shared memory; in a container it may be small (64 MB)."""
    if not SHARED_MEMORY.is_dir():
        return sys.maxsize
    free = shutil.disk_usage(SHARED_MEMORY).free
    found = free // 2 // max(1, (AHEAD + 1) * batch_bytes)
    if found == 0:
        log.warning(
            "%s has %d MB free, too little for batches of %d MB that other processes make: the training makes them "
            "itself (docker: --shm-size)", SHARED_MEMORY, free >> 20, batch_bytes >> 20,
        )  # fmt: skip
    return found


def _started(make: MakeBatch[B], steps: range, processes: int, pin: bool) -> Iterator[Packed | CellsemiError]:
    with without_main(), warnings.catch_warnings():
        # More processes than CPUs, where somebody asked for so many.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = DataLoader(
            _Batches(make),
            batch_size=None,
            sampler=steps,
            num_workers=processes,
            prefetch_factor=AHEAD,
            pin_memory=pin,
            collate_fn=_as_it_is,
            worker_init_fn=_prepare,
            multiprocessing_context=context(),
        )
        return iter(loader)


@dataclass(frozen=True)
class _Batches(Dataset[Packed | CellsemiError], Generic[B]):
    """The packed batch of each step; an error of ours travels as it is, torch would wrap its message."""

    make: MakeBatch[B]

    def __getitem__(self, step: int) -> Packed | CellsemiError:
        try:
            return Packed.of(self.make(step))
        except CellsemiError as error:
            return error


def _as_it_is(packed: Any) -> Any:
    return packed


def _prepare(_: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    follow_parent()
