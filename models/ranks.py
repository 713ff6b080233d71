"""Trains one model in several processes of this machine, each on a part of every batch and a device of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cellsemi.configs.errors import CellsemiError, ModelError
from cellsemi.models.base import FitResult, FitTask, Progress
from cellsemi.models.registry import family
from cellsemi.models.training.device import pick_device
from cellsemi.models.training.processes import context, follow_parent, without_main

Fit = Callable[[FitTask, Progress], FitResult]


def fit_on_ranks(fit: Fit, task: FitTask, progress: Progress) -> FitResult:
    """`fit` of a family, in `task.ranks` processes; this one is the first, and the one that writes.

    ModelError when there are fewer crops in a batch, or GPUs that this process sees, than ranks. An error of cellsemi
    in another process is raised here.
    """
    if task.ranks == 1:
        return fit(task, progress)
    from cellsemi.models.training.together import joined

    _check(task)
    with tempfile.TemporaryDirectory() as folder, _others(task, Path(folder) / "ranks") as failed:
        try:
            with joined(Path(folder) / "ranks", 0, task.ranks, _cuda(task)):
                return fit(_of_rank(task, 0), progress)
        except RuntimeError:  # what torch raises when another rank is gone
            if (error := failed()) is not None:
                raise error from None
            raise


def _check(task: FitTask) -> None:
    if task.training.batch < task.ranks:
        raise ModelError(
            f"{task.model.name}: training.batch {task.training.batch} is less than engine.workers_per_student "
            f"{task.ranks}; every process needs a crop"
        )
    import torch

    if _cuda(task) and torch.cuda.device_count() < task.ranks:
        raise ModelError(
            f"{task.model.name}: engine.workers_per_student is {task.ranks}, this process sees "
            f"{torch.cuda.device_count()} GPUs"
        )


def _cuda(task: FitTask) -> bool:
    return pick_device(task.device).type == "cuda"


def _of_rank(task: FitTask, rank: int) -> FitTask:
    """The task of one rank: CPUs that are idle are shared."""
    device = f"cuda:{rank}" if _cuda(task) else "cpu"
    return replace(task, device=device, ranks=1, part=(rank, task.ranks), idle_cpus=task.idle_cpus // task.ranks)


@contextmanager
def _others(task: FitTask, place: Path) -> Iterator[Callable[[], CellsemiError | None]]:
    """The other ranks at work; yields what tells the error of ours that ended one of them, if any."""
    start = context()
    started, ends = list[Any](), list[Connection]()
    with without_main():
        for rank in range(1, task.ranks):
            ours, theirs = start.Pipe(duplex=False)
            process = start.Process(target=_work, args=(_of_rank(task, rank), place, theirs), daemon=False)
            process.start()
            theirs.close()
            started.append(process)
            ends.append(ours)

    def failed() -> CellsemiError | None:
        found = [end.recv() for end in ends if end.poll(1)]
        return next((each for each in found if each is not None), None)

    try:
        yield failed
        for process in started:
            process.join()
    finally:
        for process in started:
            if process.is_alive():
                process.kill()
            process.join()


def _work(task: FitTask, place: Path, end: Connection) -> None:
    """One of the other ranks, from its start to its end; what it raises goes through `end`."""
    from cellsemi.models.training.together import joined

    follow_parent()
    rank, of = task.part
    try:
        with joined(place, rank, of, _cuda(task)):
            family(task.model.kind).fit(task, lambda step, steps: None)
    except CellsemiError as error:
        end.send(error)
