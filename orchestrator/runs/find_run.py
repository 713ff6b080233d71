"""Finds the run that a command names. Imports little: a command that only prints a table starts with it."""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.errors import UsageError
from cellsemi.rounds.store import files, run
from cellsemi.rounds.store.run import RunPaths

RUNS = Path("runs")


def find_run(name: str | None) -> RunPaths:
    """The run of a name below ./runs or of a folder; None means the one worked on last.

    UsageError, naming what there is, when there is no such run.
    """
    if name is None:
        runs = known_runs()
        if not runs:
            raise UsageError(f"no run below ./{RUNS}; `cellsemi round --n 3` starts one, or name a run's folder")
        return runs[0]
    for folder in (RUNS / name, files.place(name)):
        paths = RunPaths(folder.resolve())
        if paths.config.is_file():
            return paths
        if run.is_bound(paths):
            run.read_config(paths)  # says that run.yaml is gone, and what to do
    names = ", ".join(sorted(paths.name for paths in known_runs())) or "none"
    raise UsageError(f"no run is called {name!r} and no folder {name} holds one; below ./{RUNS} there are: {names}")


def argument_of(paths: RunPaths) -> str:
    """What names the run to a command: its name below ./runs, else its folder."""
    return paths.name if (RUNS / paths.name).resolve() == paths.root else str(paths.root)


def known_runs() -> list[RunPaths]:
    """The runs below ./runs, the one worked on last first."""
    folders = sorted(RUNS.iterdir()) if RUNS.is_dir() else []
    runs = [RunPaths(folder.resolve()) for folder in folders]
    return sorted((paths for paths in runs if paths.config.is_file()), key=_last_change, reverse=True)


def _last_change(paths: RunPaths) -> float:
    return max(path.stat().st_mtime for path in (paths.config, paths.events) if path.is_file())
