"""Decides who teaches the next round, finishes the round, and keeps the leaderboard.

The score threshold of each model is chosen on val and applied to test; test is scored once per model and
decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cellsemi.configs.models import MasksConfig
from cellsemi.orchestrator.stages.context import Context, do
from cellsemi.orchestrator.stages.filter_pseudo_labels import pseudo_counts
from cellsemi.orchestrator.stages.measure_sizes import scores_at, shares
from cellsemi.orchestrator.stages.train import first_steps
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.ensemble import Ensemble, new_ensemble
from cellsemi.rounds.evaluation.ensemble_selection import stop_reason
from cellsemi.rounds.evaluation.evaluation_table import find, found_or_empty, read_evaluations
from cellsemi.rounds.evaluation.history import RoundManifest, decisions, read_manifests, standings
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.evaluation.promotion import Decision, Sized, decide
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.run import CONTROL, ENSEMBLE
from cellsemi.rounds.store.steps import Step, forget_superseded


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round came to: its models, its ensemble and why these students form it, its teachers, the decisions."""

    round: int
    names: tuple[str, ...]  # of all its models that did not diverge, the control among them
    ensemble: Ensemble
    why: str
    teachers: Ensemble | None
    decision: Decision
    on_control: Decision | None


def stopped(context: Context, before: int, decision: Decision | None = None) -> str | None:
    """Why no further round is run after the rounds below `before` and one with `decision`; None: go on."""
    made = [each for number, each in decisions(read_manifests(context.paths)).items() if number < before]
    made += [decision] if decision else []
    return stop_reason([each.promoted for each in made], context.config.rounds.stop_after)


def compare(
    context: Context, at: int, candidate: Ensemble, incumbent: Ensemble | None, word: str = "promoted"
) -> Decision:
    """Whether the candidate beats the incumbent (None: there is none), at the cell sizes of the unlabelled images.

    `at` is the round at work; both have been evaluated; `word` is what a winner is called.
    """
    config, paths = context.config, context.paths
    sized: list[Sized] = []
    if incumbent is not None:
        for scale, share in shares(context).items():
            new, old = (scores_at(context, at, each, scale) for each in (candidate, incumbent))
            sized.append(Sized(scale, share, new, old))
    seed = derive_seed(config.run.seed, "promotion", at)
    known = None if incumbent is None else incumbent.evaluation(paths).scores
    new, rule = candidate.evaluation(paths).scores, config.rounds.promotion
    return decide(new, known, config.data.classes, rule, seed, sized, word=word)


def decide_round(context: Context, round: int, candidate: Ensemble, teachers: Ensemble | None) -> Decision:
    """Compare the round's ensemble with its teachers on the validation images, at the sizes of the unlabelled ones.

    The reason also says when the rounds end with this one.
    """
    decision = compare(context, round, candidate, teachers)
    end = stopped(context, round, decision)
    return replace(decision, reason=f"{decision.reason}; no further round is run: {end}") if end else decision


def decide_control(context: Context, round: int, incumbent: Ensemble) -> Decision:
    """Whether longer training on the human labels beats the best ensemble so far: then it is what is delivered.

    It teaches nobody: the rounds go on from the ensembles.
    """
    control = replace(new_ensemble(context.config, round, (CONTROL,), None), name=CONTROL)
    return compare(context, round, control, incumbent, word="recommended")


def finish_round(context: Context, result: RoundResult) -> None:
    """Write the round's manifest, last, and the leaderboard of all rounds so far.

    `students` in it are those of the ensemble; the rows hold every model.
    """
    paths, round, teachers = context.paths, result.round, result.teachers
    read = [paths.evaluation(number) for number in {0, round, teachers.round if teachers else 0}]
    read += [paths.round_manifest(round - 1)] if round else []
    read += [paths.pseudo(round, fold.suffix) for fold in folds_of(context.config)] if round else []
    read += [paths.sizes] if round and paths.sizes.is_file() else []
    read += [paths.model(round, fold.member(name)) for name in result.names for fold in folds_of(context.config)]
    step = Step(
        round=round,
        name="finish the round",
        output=paths.round_manifest(round),
        settings=context.read("rounds", "models[]", "data.classes", "run.seed"),
        inputs=tuple(read),
        parameters={"decision": result.decision.reason},
        total=len(result.names),
        unit="models",
    )
    do(context, step, lambda: _manifest(context, result).write(paths.round_manifest(round)))
    forget_superseded(paths, round)
    write_leaderboard(context)


def _manifest(context: Context, result: RoundResult) -> RoundManifest:
    seconds = context.spent(result.round)
    return RoundManifest(
        round=result.round,
        teachers_round=None if result.teachers is None else result.teachers.round,
        students=result.ensemble.members,
        why_these_students=result.why,
        steps=first_steps(context, result.round) + (result.teachers.steps if result.teachers else 0),
        decision=result.decision,
        control=result.on_control,
        seconds=seconds,
        predicts=not any(
            isinstance(context.config.model_called(name, result.round), MasksConfig) for name in result.ensemble.members
        ),
        rows=tuple(row.to_json() for row in rows_of(context, result, seconds)),
    )


def rows_of(context: Context, result: RoundResult, seconds: float) -> list[Row]:
    """The leaderboard rows of a round: its students, its ensemble, and the control when there is one."""
    config, paths, round = context.config, context.paths, result.round
    found = read_evaluations(paths.evaluation(round), config.data.classes)
    first = next((student.name for student in config.students_of(round)), "")
    before = read_evaluations(paths.evaluation(0), config.data.classes) if round else []
    known = {evaluation.model for evaluation in before}
    counts = pseudo_counts(context, round) if round else {}
    control = find(found, CONTROL, "test") if CONTROL in result.names else None
    teachers = {*result.ensemble.members, ENSEMBLE} if result.decision.promoted else set()
    rows = []
    scored = {evaluation.model for evaluation in found}  # without teachers whose masks lack all val and test images
    names = [name for name in result.names if name != CONTROL and name in scored]
    for model in [*names, ENSEMBLE, *([CONTROL] if control else [])]:
        baseline = leaderboard.baseline_name(model, first)
        rows.append(
            leaderboard.make_row(
                found_or_empty(found, round, model, "val"),
                found_or_empty(found, round, model, "test"),
                baseline=found_or_empty(before, 0, baseline, "test") if baseline in known else None,
                control=control if model == first else None,
                classes=config.data.classes,
                counts=_counts_of(model, counts),
                promoted=model in teachers,
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
    return float(sum(read_fit(folder).seconds for folder in members))


def write_leaderboard(context: Context) -> None:
    """The leaderboard of all finished rounds as Parquet, CSV and Markdown, with the verdict."""
    rows, sentence = standings(read_manifests(context.paths), context.paths.name)
    leaderboard.write(context.paths.leaderboard, rows, sentence, context.config_hash)
