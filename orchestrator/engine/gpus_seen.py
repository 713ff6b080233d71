"""Remembers in the folder of a run that it has worked on GPUs: a run that has lost all of them waits, and says so.

Otherwise `engine.device: auto` would take a cluster whose last GPU was just taken away for one without.
"""

from __future__ import annotations

from pathlib import Path

from cellsemi.rounds.store import files
from cellsemi.rounds.store.run import RunPaths


def had_gpus(folder: Path) -> bool:
    """Whether the run of this folder has worked on GPUs."""
    return RunPaths(folder).hardware.is_file()


def note_gpus(folder: Path) -> None:
    """Remember it, where the folder is that of a run."""
    paths = RunPaths(folder)
    if not paths.hardware.is_file() and paths.config.is_file():
        files.write_json(paths.hardware, {"gpus": True})
