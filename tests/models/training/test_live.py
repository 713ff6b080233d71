"""The curve of a training while it runs: what is new, from the checkpoint on, and no more."""

from __future__ import annotations

from pathlib import Path

from cellsemi.models.model_files import LIVE_FILE, read_live
from cellsemi.models.training.checkpoint import Curves, StepRecord
from cellsemi.models.training.live import LiveCurve
from cellsemi.models.training.usage import Usage
from cellsemi.models.training.validation_loss import ValidationRecord


def curves(steps: int, *, measured: int = 0) -> Curves:
    return Curves(
        tuple(StepRecord(step, 1 / step, {"flow": 0.5}, 0.1, 2.0) for step in range(1, steps + 1)),
        tuple(ValidationRecord(step, 0.25, {}) for step in range(1, measured + 1)),
        (Usage(steps, 1.5, 90.0, None),) if steps else (),
    )


def test_the_last_step_and_every_measurement_is_written_once(tmp_path: Path) -> None:
    live = LiveCurve(tmp_path, 100, resumed_at=0)
    live.write(curves(0))
    live.write(curves(7, measured=2))
    live.write(curves(7, measured=2))
    live.write(curves(9, measured=3))
    rows = read_live(tmp_path)
    assert [(row.step, "loss" in row.metrics) for row in rows] == [
        (7, True), (1, False), (2, False), (7, False), (9, True), (3, False), (9, False),
    ]  # fmt: skip
    assert rows[0].metrics == {"loss": 1 / 7, "flow_loss": 0.5, "lr": 0.1, "grad_norm": 2.0} and rows[0].steps == 100
    assert rows[1].metrics == {"validation_loss": 0.25} and rows[3].metrics == {"seconds": 1.5, "memory_mb": 90.0}


def test_a_continued_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    LiveCurve(tmp_path, 100, 0).write(curves(7))
    LiveCurve(tmp_path, 100, 0).write(curves(9))
    assert {row.step for row in read_live(tmp_path)} == {9}  # from the start again: the old rows are gone
    LiveCurve(tmp_path, 100, 9)
    assert {row.step for row in read_live(tmp_path)} == {9}
    LiveCurve(tmp_path, 100, 8)
    assert read_live(tmp_path) == []


def test_a_folder_that_cannot_be_written_stops_no_training(tmp_path: Path) -> None:
    (tmp_path / LIVE_FILE).mkdir()
    live = LiveCurve(tmp_path, 10, 0)
    live.write(curves(3))
    assert read_live(tmp_path) == []
