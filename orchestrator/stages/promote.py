"""Who teaches next: score every model of a round, decide on validation images, keep the leaderboard.

The score threshold of each model is chosen on val and applied to test; test is scored once per model and
decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from cellsemi.orchestrator.runs import report
from cellsemi.orchestrator.stages.calibrate_teachers import kept
from cellsemi.orchestrator.stages.compare import Contender, compare
from cellsemi.orchestrator.stages.context import Context
from cellsemi.orchestrator.stages.filter_pseudo_labels import pseudo_counts
from cellsemi.orchestrator.stages.train import first_steps
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.ensemble_selection import Selected, stop_reason
from cellsemi.rounds.evaluation.evaluation_table import Evaluation, find, read_evaluations
from cellsemi.rounds.evaluation.history import Teachers, decisions, delivered, read_manifests
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.evaluation.promotion import Decision
from cellsemi.rounds.evaluation.verdict import verdict
from cellsemi.rounds.store import files
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.manifest import read_manifest
from cellsemi.rounds.store.run import CONTROL, ENSEMBLE


def stopped(context: Context, decision: Decision | None = None) -> str | None:
    """Why no further round is run after the finished ones and one with `decision`; None: go on."""
    made = [*decisions(read_manifests(context.paths)).values(), *([decision] if decision else [])]
    return stop_reason([each.promoted for each in made], context.config.rounds.stop_after)


def judge(context: Context, round: int, candidate: Contender, teachers: Teachers | None) -> Decision:
    """Compare the round's ensemble with the standing one on the validation images, at the sizes of the pool.

    The reason also says when the rounds end with this one.
    """
    best = _contender(context, teachers) if teachers else None
    decision = compare(context, round, candidate, best)
    end = stopped(context, decision)
    return replace(decision, reason=f"{decision.reason}; no further round is run: {end}") if end else decision


def judge_control(
    context: Context,
    round: int,
    found: Sequence[Evaluation],
    candidate: Contender,
    decision: Decision,
    teachers: Teachers,
) -> Decision:
    """Whether longer training on the human labels beats the best ensemble so far: then it is what is delivered.

    It teaches nobody: the rounds go on from the ensembles.
    """
    best = candidate if decision.promoted else _contender(context, teachers)
    control = Contender(round, CONTROL, (CONTROL,), {}, find(found, CONTROL, "val"))
    return compare(context, round, control, best)


def _contender(context: Context, teachers: Teachers) -> Contender:
    """The standing ensemble."""
    paths = context.paths
    val = find(read_evaluations(paths.evaluation(teachers.round), context.config.data.classes), ENSEMBLE, "val")
    return Contender(teachers.round, ENSEMBLE, teachers.names, kept(paths.calibration(teachers.round)), val)


def rows_of(
    context: Context,
    round: int,
    names: Sequence[str],
    chosen: Selected,
    decision: Decision,
    on_control: Decision | None,
    seconds: float,
) -> list[Row]:
    """The leaderboard rows of a round: its students, its ensemble, and the control when there is one."""
    config, paths = context.config, context.paths
    found = read_evaluations(paths.evaluation(round), config.data.classes)
    first = config.models_of(round)[0].name
    before = read_evaluations(paths.evaluation(0), config.data.classes) if round else []
    known = {evaluation.model for evaluation in before}
    counts = pseudo_counts(context, round) if round else {}
    control = find(found, CONTROL, "test") if CONTROL in names else None
    winners = {*chosen.members, ENSEMBLE} if decision.promoted else set()
    winners |= {CONTROL} if on_control and on_control.promoted else set()
    rows = []
    for model in [*(name for name in names if name != CONTROL), ENSEMBLE, *([CONTROL] if control else [])]:
        baseline = leaderboard.baseline_name(model, first)
        rows.append(
            leaderboard.make_row(
                find(found, model, "val"),
                find(found, model, "test"),
                baseline=find(before, baseline, "test") if baseline in known else None,
                control=control if model == first else None,
                classes=config.data.classes,
                counts=_counts_of(model, counts),
                promoted=model in winners,
                seconds=_fit_seconds(context, round, model) if model != ENSEMBLE else seconds,
                config=config.rounds.promotion,
                seed=config.run.seed,
            )
        )
    return rows


def _counts_of(model: str, counts: dict[str, int]) -> dict[str, int]:
    """The pseudo-labels that a model learned from; the control and round 0 saw none."""
    return {state: 0 if model == CONTROL else counts.get(state, 0) for state in ("accepted", "ignored", "rejected")}


def _fit_seconds(context: Context, round: int, model: str) -> float:
    """Seconds that the fits of a model took, in all folds."""
    members = [context.paths.model(round, fold.member(model)) for fold in folds_of(context.config)]
    return float(sum(read_manifest(folder)["seconds"] for folder in members))


def finish_round(
    context: Context,
    round: int,
    names: Sequence[str],
    chosen: Selected,
    teachers: Teachers | None,
    decision: Decision,
    on_control: Decision | None,
) -> None:
    """Write the round's manifest, last, and the leaderboard of all rounds so far.

    `students` in it are those of the ensemble; the rows hold every model.
    """
    paths = context.paths
    seconds = context.spent(round)
    manifest = {
        "round": round,
        "teachers_round": None if teachers is None else teachers.round,
        "students": list(chosen.members),
        "why_these_students": chosen.why,
        "steps": first_steps(context, round) + (teachers.steps if teachers else 0),
        "decision": asdict(decision),
        "control": asdict(on_control) if on_control else None,
        "seconds": seconds,
        "rows": [row.to_json() for row in rows_of(context, round, names, chosen, decision, on_control, seconds)],
    }
    files.write_json(paths.round_manifest(round), manifest)
    write_leaderboard(context)
    report.write_report(context, round)


def write_leaderboard(context: Context) -> None:
    """The leaderboard of all finished rounds as Parquet, CSV and Markdown, with the verdict."""
    manifests = read_manifests(context.paths)
    rows = [Row.from_json(values) for manifest in manifests.values() for values in manifest["rows"]]
    sentence = verdict(rows, decisions(manifests), delivered(context.paths))
    leaderboard.write(context.paths.leaderboard, rows, sentence, context.config_hash)
