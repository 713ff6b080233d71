"""Rounds on the real fluorescence images, where they are at hand: minutes, so not in the default suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.terminal import cellsemi

from cellsemi.rounds.evaluation import leaderboard

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "dsb2018"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"DSB2018 is not at {DATA}; see benchmarks/README.md"),
]


def test_sixteen_labelled_images_reach_half_of_the_possible(tmp_path: Path) -> None:
    sets = [f"data.root={DATA}", "data.labelled_limit=16", "training.steps=200"]
    sets += ["data.where={modality: fluorescence, height: '256', width: '256'}", "rounds.control=false"]
    done = cellsemi(
        "round",
        "--n",
        "1",
        "--config",
        "dsb2018",
        "--run",
        "real",
        *(p for s in sets for p in ("--set", s)),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = leaderboard.read(tmp_path / "runs" / "real" / "leaderboard")
    assert rows[0].test_images == 67 and rows[0].test_map.value > 0.4
    student = next(row for row in rows if row.round == 1 and row.model == "unet-a")
    assert student.accepted > 1000
    assert student.test_map.value > rows[0].test_map.value - 0.05
