"""What every benchmark needs: a line about the machine and the versions, and where the real data may lie."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from cellsemi.rounds.store.run import versions

DSB2018 = Path(__file__).resolve().parents[2] / "shared" / "data" / "dsb2018"  # where a checkout may have it
SHOWN = ("cellsemi", "torch", "cellpose", "ray", "numpy", "numba")


def describe(on_gpu: bool = False) -> str:
    """Date, processor, cores, Python and the versions that matter for a timing."""
    found = versions()
    packages = ", ".join(f"{name} {found[name]}" for name in SHOWN if name in found)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {_processor()}, {os.cpu_count()} cores{'' if on_gpu else ', no GPU used'}; "
        f"Python {platform.python_version()}, {packages}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def skip(why: str) -> NoReturn:
    """End a benchmark that lacks its data: a message, and no failure."""
    print(f"skipped: {why}", file=sys.stderr)
    sys.exit(0)
