"""Reads the finished rounds of a run: what each decided, and the verdict on them."""

from __future__ import annotations

from collections.abc import Mapping

from cellsemi.configs.errors import RunError
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.evaluation.promotion import Decision
from cellsemi.rounds.evaluation.verdict import NOTHING_PREDICTS, AgainstControl, verdict
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.run import ENSEMBLE, RunPaths


class RoundManifest(OnDisk):
    """What a finished round came to, `round-NN/manifest.json`.

    `students` are the members of its ensemble, `steps` the optimiser steps behind the first of them with all its
    ancestors; `control` is the decision on the control, `against_control` how what teaches after this round compares
    with it on test, both None where there is none. `rows` are leaderboard rows.
    """

    round: int
    teachers_round: int | None
    students: tuple[str, ...]
    why_these_students: str
    steps: int
    decision: Decision
    control: Decision | None
    against_control: AgainstControl | None
    seconds: float
    predicts: bool = True  # new images: not where a member of the ensemble is masks of another tool
    rows: tuple[dict[str, object], ...]


def read_manifests(paths: RunPaths) -> dict[int, RoundManifest]:
    """The manifests of the finished rounds, by round."""
    return {number: RoundManifest.read(paths.round_manifest(number)) for number in paths.finished_rounds()}


def standing_round(paths: RunPaths) -> int:
    """The round whose ensemble teaches now: the last that was promoted; round 0 always is."""
    return max(number for number, manifest in read_manifests(paths).items() if manifest.decision.promoted)


def delivered_model(paths: RunPaths) -> tuple[int, str]:
    """(round, model) that the run recommends: the last promoted ensemble, or the control that beat it.

    RunError where no model of the run predicts new images.
    """
    found = delivered_by(read_manifests(paths))
    if found is None:
        raise RunError(f"{paths.root}: {NOTHING_PREDICTS}; `cellsemi round --n 1` trains students on what passes")
    return found


def delivered_by(manifests: Mapping[int, RoundManifest]) -> tuple[int, str] | None:
    """The same after some rounds; None where no model predicts new images.

    Masks of another tool teach, but predict no new image. Where no students were promoted over them, those with the
    largest validation mAP are delivered.
    """
    found: tuple[int, str] | None = None
    for number, manifest in manifests.items():
        if manifest.decision.promoted and manifest.predicts:
            found = (number, ENSEMBLE)
        if manifest.control and manifest.against_control and manifest.control.promoted:
            found = (number, manifest.against_control.control)
    if found is not None:
        return found
    able = {number: _val_map(manifest) for number, manifest in manifests.items() if manifest.predicts}
    return (max(able, key=lambda number: (able[number], -number)), ENSEMBLE) if able else None


def _val_map(manifest: RoundManifest) -> float:
    """The validation mAP of a round's ensemble."""
    row = next(row for row in map(Row.from_json, manifest.rows) if row.model == ENSEMBLE)
    return row.val_map.value if row.val_map else 0.0


def seeds_tried(manifests: Mapping[int, RoundManifest], standing: int) -> int:
    """How many seeds it took to come to the round `standing`: 1, and 1 for each refused round before it."""
    return 1 + sum(not each.decision.promoted for number, each in manifests.items() if number < standing)


def decisions(manifests: Mapping[int, RoundManifest]) -> dict[int, Decision]:
    """The decision of every finished round."""
    return {number: manifest.decision for number, manifest in manifests.items()}


def last_comparison(manifests: Mapping[int, RoundManifest]) -> AgainstControl | None:
    """The last comparison with a control; None where no round had one."""
    found = [each.against_control for _, each in sorted(manifests.items()) if each.against_control is not None]
    return found[-1] if found else None


def standings(manifests: Mapping[int, RoundManifest], run: str) -> tuple[list[Row], str]:
    """The leaderboard rows of some rounds of a run, and the verdict after these rounds.

    What the run recommends is marked, and what teaches shows its difference to the control of the last round.
    """
    delivered, compared = delivered_by(manifests), last_comparison(manifests)
    found = [Row.from_json(values) for manifest in manifests.values() for values in manifest.rows]
    if compared is not None:
        at = (compared.round, compared.model)
        found = [row.with_(vs_control=compared.difference) if (row.round, row.model) == at else row for row in found]
    return leaderboard.recommend(found, delivered), verdict(found, decisions(manifests), compared, delivered, run)


def read_verdict(paths: RunPaths) -> str:
    """The verdict of a run as it stands."""
    manifests, rows = read_manifests(paths), leaderboard.read(paths.leaderboard)
    return verdict(rows, decisions(manifests), last_comparison(manifests), delivered_by(manifests), paths.name)
