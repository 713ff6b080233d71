"""Reads the decisions of the finished rounds: who teaches now, what the run recommends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.promotion import Decision
from cellsemi.rounds.evaluation.verdict import verdict
from cellsemi.rounds.store import files
from cellsemi.rounds.store.run import CONTROL, ENSEMBLE, RunPaths


@dataclass(frozen=True, slots=True)
class Teachers:
    """The students in the ensemble of the last promoted round teach now; `steps` are those behind them in all."""

    round: int
    names: tuple[str, ...]
    steps: int


def standing(paths: RunPaths) -> Teachers:
    """Who teaches now: the ensemble of the last promoted round; round 0 always is."""
    manifests = read_manifests(paths)
    last = max(number for number, manifest in manifests.items() if manifest["decision"]["promoted"])
    return Teachers(last, tuple(manifests[last]["students"]), manifests[last]["steps"])


def read_manifests(paths: RunPaths) -> dict[int, dict[str, Any]]:
    """The manifests of the finished rounds, by round."""
    return {number: files.read_json(paths.round_manifest(number)) for number in paths.finished_rounds()}


def delivered(paths: RunPaths) -> tuple[int, str]:
    """(round, model) that the run recommends: the last promoted ensemble, or the control that beat it."""
    found = (0, ENSEMBLE)
    for number, manifest in read_manifests(paths).items():
        if manifest["decision"]["promoted"]:
            found = (number, ENSEMBLE)
        if manifest["control"] and manifest["control"]["promoted"]:
            found = (number, CONTROL)
    return found


def decisions(manifests: dict[int, dict[str, Any]]) -> dict[int, Decision]:
    """The decision of every finished round."""
    return {number: Decision(**manifest["decision"]) for number, manifest in manifests.items()}


def read_verdict(paths: RunPaths) -> str:
    """The verdict of a run as it stands."""
    return verdict(leaderboard.read(paths.leaderboard), decisions(read_manifests(paths)), delivered(paths))
