"""The campaign: bring a run to `n` rounds.

Round 0 trains the models on human labels alone: the baseline of every claim. In each later round the
best models so far label the unlabelled images; their masks are fused, filtered and merged with the
human labels; students are trained on them from scratch and judged on held-out human labels; they teach
the next round only if they are better, and no further round is run when several in a row were not. Every
step looks at the disk first, so that the same command after a crash finishes the job, and after a finished
run does nothing.
"""

from __future__ import annotations

from cellsemi.configs.loading import config_hash
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.engine.protocol import Engine
from cellsemi.orchestrator.events import Watcher
from cellsemi.orchestrator.stages import (
    build_training_set,
    check_drift,
    divide_folds,
    filter_pseudo_labels,
    measure_sizes,
    read_images,
)
from cellsemi.orchestrator.stages.calibrate_teachers import calibrations
from cellsemi.orchestrator.stages.compare import Contender
from cellsemi.orchestrator.stages.context import Context
from cellsemi.orchestrator.stages.evaluate import choose_members, evaluate
from cellsemi.orchestrator.stages.fuse import fuse_members
from cellsemi.orchestrator.stages.predict import predict
from cellsemi.orchestrator.stages.promote import finish_round, judge, judge_control, stopped, write_leaderboard
from cellsemi.orchestrator.stages.train import Fit, control_of, first_steps, fit, students_of
from cellsemi.rounds.evaluation.evaluation_table import find
from cellsemi.rounds.evaluation.history import Teachers, standing
from cellsemi.rounds.store.prediction_splits import EVALUATED, UNLABELLED, trial_of
from cellsemi.rounds.store.run import CONTROL, ENSEMBLE, RunPaths


def run_campaign(config: Config, n: int, engine: Engine, paths: RunPaths, watcher: Watcher) -> None:
    """Bring the run at `paths` to `n` rounds; its leaderboard is written after each.

    The caller holds the run's lock. Raises a CellsemiError when it cannot go on; what is done is kept.
    """
    context = Context(config, config_hash(config), paths, engine, watcher)
    finished = len(paths.finished_rounds())
    if finished <= n:
        read_images.check_models(config)
        read_images.read_images(context)
        divide_folds.divide(context)
    for round in range(finished, n + 1):
        if reason := stopped(context):
            watcher.note(f"rounds from {round} on are not run: {reason}")
            break
        play(context, round, last=round == n)
    write_leaderboard(context)


def play(context: Context, round: int, last: bool) -> None:
    """One round, from its teachers to its judgement."""
    paths = context.paths
    teachers = standing(paths) if round else None
    if teachers is not None:
        label(context, round, teachers)
    build_training_set.build_training_sets(context, round)
    control: list[Fit] = []
    if teachers is not None and context.config.rounds.control:
        control = control_of(context, round, teachers.steps + first_steps(context, round))
    names = train(context, round, students_of(context, round) + (control if last else []))
    students = [name for name in names if name != CONTROL]
    worth = calibrations(context, round, round, students, "val", paths.calibration(round))
    chosen = choose_members(context, round, students, worth)
    for split in EVALUATED:
        fuse_members(context, round, round, chosen.members, split, worth)
    found = evaluate(context, round, names)
    candidate = Contender(round, ENSEMBLE, chosen.members, worth, find(found, ENSEMBLE, "val"))
    decision = judge(context, round, candidate, teachers)
    if control and not last and stopped(context, decision):
        # That this round is the last one is known only now; its control is trained after its students.
        names += train(context, round, control)
        found = evaluate(context, round, names)
    on_control = None
    if teachers is not None and CONTROL in names:
        on_control = judge_control(context, round, found, candidate, decision, teachers)
        context.watcher.note(f"round {round}: control: {on_control.reason}")
    finish_round(context, round, names, chosen, teachers, decision, on_control)
    context.watcher.note(f"round {round}: {decision.reason}")


def train(context: Context, round: int, fits: list[Fit]) -> list[str]:
    """Train models and let them look at val and test; returns the names of those that did not diverge."""
    names = fit(context, round, fits)
    for split in EVALUATED:
        for name in names:
            predict(context, round, round, name, split)
    return names


def label(context: Context, round: int, teachers: Teachers) -> None:
    """The teachers look at the unlabelled images; what they say together is filtered.

    What their labels are worth is seen on human labels that they look at in the same way.
    """
    trial = trial_of(context.config)
    for split in dict.fromkeys((trial, UNLABELLED)):
        for name in teachers.names:
            predict(context, round, teachers.round, name, split)
    if round == 1:
        measure_sizes.measure(context, teachers.names)
    worth = calibrations(
        context, round, teachers.round, teachers.names, trial, context.paths.teachers_calibration(round)
    )
    for split in dict.fromkeys((trial, UNLABELLED)):
        fuse_members(context, round, teachers.round, teachers.names, split, worth)
    filter_pseudo_labels.set_thresholds(context, round, teachers.round)
    filter_pseudo_labels.label(context, round, teachers.round)
    if context.config.rounds.drift_alarms:
        check_drift.watch(context, round)
