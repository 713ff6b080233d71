"""The benchmarks of speed: where seconds are counted, and every branch of the GPU's on a CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.benchmark_scripts import script

stages = script("stages")


def event(kind: str, at: int, stage: str = "", seconds: float = 0) -> str:
    return json.dumps({"event": kind, "time": f"2026-11-28T10:00:{at:02}+00:00", "stage": stage, "seconds": seconds})


def test_each_second_of_a_run_is_counted_once(tmp_path: Path) -> None:
    lines = [
        event("stage", 0, "train unet"),
        event("finish", 30, "train unet", 30),
        event("finish", 36, "label unlabelled with unet", 5),
        event("finish", 40, "predict val with unet", 4),
        event("finish", 43, "check drift", 2),
        event("note", 50),
    ]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    found = stages.seconds_of(tmp_path)
    assert found == {
        "train": 30,
        "label unlabelled images: predict, fuse, filter": 5,
        "predict val and test": 4,
        stages.OTHERS: 2,
        stages.BETWEEN: 9,
    }
    assert sum(found.values()) == 50
    assert "| all | 50.0 |" in stages.table({"now": found})


@pytest.mark.slow
def test_the_gpu_benchmark_runs_without_a_gpu_and_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    called = ["--device", "cpu", "--tiny", "--only", "flow-unet", "--table", str(tmp_path / "gpu.md")]
    done = CliRunner().invoke(script("gpu").main, [*called, "--json", str(tmp_path / "gpu.json")])
    assert done.exit_code == 0, done.output
    (row,) = json.loads((tmp_path / "gpu.json").read_text())
    assert row["family"] == "flow-unet" and not row["failed"] and row["matched"] == 1 and row["step_s"] > 0
    assert "**not run on CUDA**" in (tmp_path / "gpu.md").read_text()
