"""Parts of a run's folder, written without a campaign."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cellsemi.rounds.evaluation.history import RoundManifest
from cellsemi.rounds.evaluation.promotion import Decision
from cellsemi.rounds.store.manifest import CommittedShard, FitRecord, Manifest
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.shards import Shard
from cellsemi.rounds.store.steps import Ledger, Step, StepRecord
from cellsemi.rounds.store.unaltered import MANIFEST, content_of, record_path


def finish_folder(
    folder: Path, rows: int = 1, cells: int = 0, shards: Sequence[Shard] = (), seconds: float = 0
) -> None:
    """The manifest of a folder of shards."""
    listed = tuple(CommittedShard(**shard.model_dump()) for shard in shards)
    Manifest(fingerprint="f", seconds=seconds, rows=rows, cells=cells, shards=listed).write(folder / MANIFEST)


def finish_fit(folder: Path, steps: int, seconds: float) -> None:
    """The record of a trained model."""
    FitRecord(fingerprint="f", seconds=seconds, steps=steps, parameters=1).write(folder / MANIFEST)


def finish_first_round(paths: RunPaths, round: int = 0) -> None:
    """The manifest of round 0, or of one after it, whose only student is unet-a."""
    RoundManifest(
        round=round,
        teachers_round=None,
        students=("unet-a",),
        why_these_students="all",
        steps=1,
        decision=Decision(True, None, "the baseline"),
        control=None,
        against_control=None,
        seconds=1.0,
        rows=(),
    ).write(paths.round_manifest(round))


def begin_step(paths: RunPaths, round: int, name: str, output: Path, total: int, unit: str = "images") -> Step:
    """The record of a step at work."""
    step = Step(round, name, output, settings={}, total=total, unit=unit)
    Ledger(paths).begin(step)
    return step


def finish_step(
    paths: RunPaths, round: int, name: str, output: Path, total: int, unit: str = "images", seconds: float = 0.0
) -> None:
    """The record of a step that is done."""
    Ledger(paths).finish(begin_step(paths, round, name, output, total, unit), seconds)


def vouch_for(output: Path) -> None:
    """Make the record of a step that is done state what its output holds now."""
    path = record_path(output)
    StepRecord.read(path).model_copy(update={"content": content_of(output)}).write(path)
