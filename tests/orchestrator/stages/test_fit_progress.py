"""A fit shows the driver that it gets on, also between its steps."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.pictures import task_in

from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.base import FitResult, FitTask
from cellsemi.models.inference.less_memory import less_memory
from cellsemi.orchestrator.engine.protocol import ShowsProgress
from cellsemi.orchestrator.steps import jobs
from cellsemi.orchestrator.steps.jobs import FitJob
from cellsemi.rounds import pulse


@dataclass(frozen=True)
class Told:
    """A family whose fit does what it is told."""

    fit: Callable[[FitTask, Callable[[int, int], None]], FitResult]


def test_steps_and_beats_after_the_first_step_change_what_the_driver_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_in(tmp_path, [], 5, model=FlowUnetConfig(name="a"), training=TrainingConfig())
    job = FitJob((task,), (None,), (None,), "train a")
    assert isinstance(job, ShowsProgress)
    marks, processes = [job.progress(0)], []

    def fit(task: FitTask, progress: Callable[[int, int], None]) -> FitResult:
        processes.append(task.input_processes)
        pulse.beat()  # start-up has a limit of its own: nothing is shown
        marks.append(job.progress(0))
        for happens in (lambda: progress(1, 5), pulse.beat, pulse.beat, lambda: progress(2, 5)):
            now[0] += jobs.BEAT_S
            happens()
            marks.append(job.progress(0))
        now[0] += jobs.BEAT_S / 2
        pulse.beat()  # too soon to be written
        marks.append(job.progress(0))
        return FitResult(parameters=1, steps=5, loss=0.0, seconds=0.0, resumed_at=0)

    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr(jobs, "family", lambda kind: Told(fit))
    job.run(0)
    nothing, before, *moving = marks
    assert nothing is None and before is None
    assert len(set(moving)) == 4 and None not in moving and moving[-1] == moving[-2]
    with less_memory(1):
        job.run(0)
    assert processes == [None, 0]
