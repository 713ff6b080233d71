"""The campaign: bring a run to `n` rounds.

Round 0 trains the models on human labels alone: the baseline of every claim. In each later round the
best models so far label the unlabelled images; their masks are fused, screened and merged with the
human labels; students are trained on them from scratch and judged on held-out human labels; they teach
the next round only if they are better, and no further round is run when several in a row were not. Every
step looks at the disk first, so that the same command after a crash finishes the job, and after a finished
run does nothing.
"""

from __future__ import annotations

from cellsemi.configs.loading import config_hash
from cellsemi.configs.schema import Config
from cellsemi.orchestrator import drifting, fitting, folds, judging, labelling, preparing, screening, sizing
from cellsemi.orchestrator.calibrating import calibrations
from cellsemi.orchestrator.contest import Contender
from cellsemi.orchestrator.context import Context
from cellsemi.orchestrator.engine import Engine
from cellsemi.orchestrator.fitting import Fit
from cellsemi.orchestrator.judging import Teachers
from cellsemi.orchestrator.progress import Watcher
from cellsemi.rounds.evaluation.evaluation_table import find
from cellsemi.rounds.store.run import CONTROL, ENSEMBLE, RunPaths


def run_campaign(config: Config, n: int, engine: Engine, paths: RunPaths, watcher: Watcher) -> None:
    """Bring the run at `paths` to `n` rounds; its leaderboard is written after each.

    The caller holds the run's lock. Raises a CellsemiError when it cannot go on; what is done is kept.
    """
    context = Context(config, config_hash(config), paths, engine, watcher)
    finished = len(paths.finished_rounds())
    if finished <= n:
        preparing.check_models(config)
        preparing.read_images(context)
        folds.divide(context)
    for round in range(finished, n + 1):
        if reason := judging.stopped(context):
            watcher.note(f"rounds from {round} on are not run: {reason}")
            break
        play(context, round, last=round == n)
    judging.write_leaderboard(context)


def play(context: Context, round: int, last: bool) -> None:
    """One round, from its teachers to its judgement."""
    paths = context.paths
    teachers = judging.standing(paths) if round else None
    if teachers is not None:
        label(context, round, teachers)
    screening.build_training_sets(context, round)
    control: list[Fit] = []
    if teachers is not None and context.config.rounds.control:
        control = fitting.control_of(context, round, teachers.steps + fitting.first_steps(context, round))
    names = train(context, round, fitting.students_of(context, round) + (control if last else []))
    students = [name for name in names if name != CONTROL]
    worth = calibrations(context, round, round, students, "val", paths.calibration(round))
    chosen = judging.choose_members(context, round, students, worth)
    for split in labelling.EVALUATED:
        labelling.fuse_members(context, round, round, chosen.members, split, worth)
    found = judging.evaluate(context, round, names)
    candidate = Contender(round, ENSEMBLE, chosen.members, worth, find(found, ENSEMBLE, "val"))
    decision = judging.judge(context, round, candidate, teachers)
    if control and not last and judging.stopped(context, decision):
        # That this round is the last one is known only now; its control is trained after its students.
        names += train(context, round, control)
        found = judging.evaluate(context, round, names)
    on_control = None
    if teachers is not None and CONTROL in names:
        on_control = judging.judge_control(context, round, found, candidate, decision, teachers)
        context.watcher.note(f"round {round}: control: {on_control.reason}")
    judging.finish_round(context, round, names, chosen, teachers, decision, on_control)
    context.watcher.note(f"round {round}: {decision.reason}")


def train(context: Context, round: int, fits: list[Fit]) -> list[str]:
    """Train models and let them look at val and test; returns the names of those that did not diverge."""
    names = fitting.fit(context, round, fits)
    for split in labelling.EVALUATED:
        for name in names:
            labelling.predict(context, round, round, name, split)
    return names


def label(context: Context, round: int, teachers: Teachers) -> None:
    """The teachers look at the unlabelled images; what they say together is screened.

    What their labels are worth is seen on human labels that they look at in the same way.
    """
    trial = labelling.trial_of(context.config)
    for split in dict.fromkeys((trial, labelling.POOL)):
        for name in teachers.names:
            labelling.predict(context, round, teachers.round, name, split)
    if round == 1:
        sizing.measure(context, teachers.names)
    worth = calibrations(
        context, round, teachers.round, teachers.names, trial, context.paths.teachers_calibration(round)
    )
    for split in dict.fromkeys((trial, labelling.POOL)):
        labelling.fuse_members(context, round, teachers.round, teachers.names, split, worth)
    screening.set_limits(context, round, teachers.round)
    screening.label(context, round, teachers.round)
    if context.config.rounds.drift_alarms:
        drifting.watch(context, round)
