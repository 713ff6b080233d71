"""The scripts of benchmarks/ as modules, for their tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
DATA = BENCHMARKS.parents[1] / "shared" / "data" / "dsb2018"
NEEDS_DATA = pytest.mark.skipif(not DATA.is_dir(), reason=f"DSB2018 is not at {DATA}; see benchmarks/README.md")
SEEDS = (0, 1, 2)


def script(name: str) -> ModuleType:
    """A module of benchmarks/, under a name that is not that of a package of the source tree."""
    sys.path.append(str(BENCHMARKS))  # for what it imports beside itself
    path_before = list(sys.path)
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path[:] = path_before
    return module


rounds = script("rounds")
promotion = script("promotion")
retries = script("retries")
# What rounds.py imports beside itself, by the names that it has there.
regimes, rounds_plan, rounds_runs, rounds_table = (
    sys.modules[name] for name in ("regimes", "rounds_plan", "rounds_runs", "rounds_table")
)


def plan_of(out: Path, **changes: Any) -> Any:
    asked: dict[str, Any] = {"regimes": tuple(regimes.REGIMES), "seeds": SEEDS, "n": 1, "steps": 300, "root": out}
    asked |= {"out": out, "settings": (), "ablate": True, "images": None}
    return rounds_plan.Plan(**(asked | changes))
