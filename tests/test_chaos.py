"""Ten faults, drawn by a seed, over a campaign on a cluster of three nodes: nothing is lost and nothing differs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.benchmark_scripts import BENCHMARKS

FAULTS, SEED = 10, 0


@pytest.mark.ray
@pytest.mark.slow
def test_after_ten_faults_the_tables_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    page = tmp_path / "chaos.md"
    script = [
        sys.executable,
        str(BENCHMARKS / "chaos.py"),
        "--faults",
        str(FAULTS),
        "--seed",
        str(SEED),
        "--out",
        str(page),
    ]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = re.search(
        rf"seed {SEED}: (\d+) faults over \d+ campaigns, .*: all (\d+) tables and models equal", page.read_text()
    )
    assert found is not None and int(found[1]) == FAULTS and int(found[2]) > 100
