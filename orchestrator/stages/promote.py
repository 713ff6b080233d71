"""Decides who teaches the next round, finishes the round, and keeps the leaderboard.

The score threshold of each model is chosen on val and applied to test; test is scored once per model and
decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cellsemi.configs.models import MasksConfig
from cellsemi.orchestrator.stages.filter_pseudo_labels import pseudo_counts
from cellsemi.orchestrator.stages.measure_sizes import scores_at, shares
from cellsemi.orchestrator.stages.train import first_steps
from cellsemi.orchestrator.steps.context import Context, do
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.evaluation.ensemble import Ensemble, new_ensemble
from cellsemi.rounds.evaluation.ensemble_selection import stop_reason
from cellsemi.rounds.evaluation.evaluation_table import find, found_or_empty, read_evaluations
from cellsemi.rounds.evaluation.figures import map_difference
from cellsemi.rounds.evaluation.history import RoundManifest, decisions, read_manifests, seeds_tried, standings
from cellsemi.rounds.evaluation.leaderboard import Row
from cellsemi.rounds.evaluation.metrics import image_values
from cellsemi.rounds.evaluation.promotion import Decision, Sized, decide
from cellsemi.rounds.evaluation.verdict import AgainstControl
from cellsemi.rounds.review.added import batches, read_batch
from cellsemi.rounds.seeds import derive_seed
from cellsemi.rounds.store.folds import folds_of
from cellsemi.rounds.store.manifest import read_fit
from cellsemi.rounds.store.run import ENSEMBLE, is_control
from cellsemi.rounds.store.steps import Step, forget_superseded


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What a round came to: its models, its ensemble and why these students form it, its teachers, the decisions."""

    round: int
    names: tuple[str, ...]  # of all its models that did not diverge, controls among them
    ensemble: Ensemble
    why: str
    teachers: Ensemble | None
    decision: Decision
    control: str | None  # the control that was compared; None where there is none
    on_control: Decision | None


def stopped(context: Context, before: int, decision: Decision | None = None) -> str | None:
    """Why no further round is run after the rounds below `before` and one with `decision`; None: go on.

    New human labels are a new start: what was refused before they taught does not count.
    """
    since = max((read_batch(folder).from_round for folder in batches(context.paths, before)), default=0)
    made = [each for number, each in decisions(read_manifests(context.paths)).items() if since <= number < before]
    made += [decision] if decision else []
    return stop_reason([each.promoted for each in made], context.config)


def compare(
    context: Context,
    at: int,
    candidate: Ensemble,
    incumbent: Ensemble | None,
    *,
    tries: int,
    word: str = "promoted",
    min_probability: float | None = None,
) -> Decision:
    """Whether the candidate beats the incumbent (None: there is none), at the cell sizes of the unlabelled images.

    `at` is the round at work; both have been evaluated; `tries` and `word` are those of `decide`. `min_probability`
    takes the place of `rounds.promotion.min_probability`.
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
    if min_probability is not None:
        rule = rule.model_copy(update={"min_probability": min_probability})
    return decide(new, known, config.data.classes, rule, seed, sized, word=word, tries=tries)


def decide_round(context: Context, round: int, candidate: Ensemble, teachers: Ensemble | None) -> Decision:
    """Compare the round's ensemble with its teachers on the validation images, at the sizes of the unlabelled ones.

    Every round since the one that taught was a try to beat it. The reason also says when the rounds end with this one.
    """
    tries = 1 if teachers is None else round - teachers.round
    decision = compare(context, round, candidate, teachers, tries=tries)
    end = stopped(context, round, decision)
    return replace(decision, reason=f"{decision.reason}; no further round is run: {end}") if end else decision


def control_seeds(context: Context, round: int, decision: Decision) -> int:
    """How many seeds of the control are fair: as many as were tried until the ensemble that teaches from now on."""
    made = read_manifests(context.paths)
    before = {number: each for number, each in made.items() if number < round}
    standing = round if decision.promoted else max(number for number, each in before.items() if each.decision.promoted)
    return seeds_tried(before, standing)


def decide_control(context: Context, round: int, incumbent: Ensemble, controls: Sequence[str]) -> tuple[str, Decision]:
    """The best of the controls on val, and whether it beats the best ensemble so far: then it is what is delivered.

    It teaches nobody: the rounds go on from the ensembles.
    """
    candidates = [replace(new_ensemble(context.config, round, (name,), None), name=name) for name in controls]
    best = max(candidates, key=lambda each: image_values(each.evaluation(context.paths).scores).mean())
    sure = context.config.rounds.promotion.control_probability
    decision = compare(context, round, best, incumbent, tries=len(controls), word="recommended", min_probability=sure)
    if len(controls) > 1:
        chosen = f"{decision.reason}; {best.name} is the best of {len(controls)} seeds on validation images"
        decision = replace(decision, reason=chosen)
    return best.name, decision


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
        against_control=None if result.control is None else _against_control(context, result, result.control),
        seconds=seconds,
        predicts=not any(
            isinstance(context.config.model_called(name, result.round), MasksConfig) for name in result.ensemble.members
        ),
        rows=tuple(row.to_json() for row in rows_of(context, result, seconds)),
    )


def _against_control(context: Context, result: RoundResult, name: str) -> AgainstControl:
    """How the first model of the round that teaches from now on compares with the control of this one, on test."""
    config, paths = context.config, context.paths
    standing = result.round if result.decision.promoted or result.teachers is None else result.teachers.round
    found = read_evaluations(paths.evaluation(standing), config.data.classes)
    there = {evaluation.model for evaluation in found}
    first = next(model.name for model in config.models_of(standing) if model.name in there)
    control = find(read_evaluations(paths.evaluation(result.round), config.data.classes), name, "test")
    difference = map_difference(
        found_or_empty(found, standing, first, "test"), control, config.rounds.promotion, config.run.seed
    )
    return AgainstControl(standing, first, result.round, name, difference)


def rows_of(context: Context, result: RoundResult, seconds: float) -> list[Row]:
    """The leaderboard rows of a round: its students, its ensemble, and the controls when there are any."""
    config, paths, round = context.config, context.paths, result.round
    found = read_evaluations(paths.evaluation(round), config.data.classes)
    first = next((student.name for student in config.students_of(round)), "")
    before = read_evaluations(paths.evaluation(0), config.data.classes) if round else []
    known = {evaluation.model for evaluation in before}
    counts = pseudo_counts(context, round) if round else {}
    control = None if result.control is None else find(found, result.control, "test")
    teachers = {*result.ensemble.members, ENSEMBLE} if result.decision.promoted else set()
    rows = []
    scored = {evaluation.model for evaluation in found}  # without teachers whose masks lack all val and test images
    students = [name for name in result.names if not is_control(name) and name in scored]
    for model in [*students, ENSEMBLE, *filter(is_control, result.names)]:
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
    return {state: 0 if is_control(model) else counts.get(state, 0) for state in ("accepted", "ignored", "rejected")}


def _fit_seconds(context: Context, round: int, model: str) -> float:
    """Seconds that the fits of a model took, in all folds."""
    members = [context.paths.model(round, fold.member(model)) for fold in folds_of(context.config)]
    return float(sum(read_fit(folder).seconds for folder in members))


def write_leaderboard(context: Context) -> None:
    """The leaderboard of all finished rounds as Parquet, CSV and Markdown, with the verdict."""
    rows, sentence = standings(read_manifests(context.paths), context.paths.name)
    leaderboard.write(context.paths.leaderboard, rows, sentence, context.config_hash)
