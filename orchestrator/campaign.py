"""The campaign: bring a run to `n` rounds.

Round 0 trains the models on human labels alone: the baseline of every claim. In each later round the
best models so far label the unlabelled images; their masks are fused, screened and merged with the
human labels; students are trained on them from scratch and judged on held-out human labels; they teach
the next round only if they are better. Every step looks at the disk first, so that the same command
after a crash finishes the job, and after a finished run does nothing.
"""

from __future__ import annotations

from cellsemi.configs.loading import config_hash
from cellsemi.configs.schema import Config
from cellsemi.orchestrator import fitting, judging, labelling, preparing, screening
from cellsemi.orchestrator.context import Context
from cellsemi.orchestrator.engine import Engine
from cellsemi.orchestrator.judging import Teachers
from cellsemi.orchestrator.progress import Watcher
from cellsemi.rounds.run import CONTROL, RunPaths


def run_campaign(config: Config, n: int, engine: Engine, paths: RunPaths, watcher: Watcher) -> None:
    """Bring the run at `paths` to `n` rounds; its leaderboard is written after each.

    The caller holds the run's lock. Raises a CellsemiError when it cannot go on; what is done is kept.
    """
    context = Context(config, config_hash(config), paths, engine, watcher)
    finished = len(paths.finished_rounds())
    if finished <= n:
        preparing.check_models(config)
        preparing.read_images(context)
    for round in range(finished, n + 1):
        play(context, round, last=round == n)
    judging.write_leaderboard(context)


def play(context: Context, round: int, last: bool) -> None:
    """One round, from its teachers to its judgement."""
    teachers = judging.standing(context.paths) if round else None
    if teachers is not None:
        label(context, round, teachers)
    screening.build_training_set(context, round)
    fits = fitting.students_of(context, round)
    if teachers is not None and last and context.config.rounds.control:
        fits.append(fitting.control_of(context, teachers.ancestry + 1))
    names = fitting.fit(context, round, fits)
    students = [name for name in names if name != CONTROL]
    for split in labelling.EVALUATED:
        for name in names:
            labelling.predict(context, round, round, name, split)
        labelling.fuse_members(context, round, round, students, split)
    found = judging.evaluate(context, round, names)
    decision = judging.judge(context, round, found, teachers)
    judging.finish_round(context, round, names, teachers, decision)
    context.watcher.note(f"round {round}: {decision.reason}")


def label(context: Context, round: int, teachers: Teachers) -> None:
    """The teachers look at the unlabelled images; what they say together is screened."""
    for name in teachers.names:
        labelling.predict(context, round, teachers.round, name, "unlabelled")
    labelling.fuse_members(context, round, teachers.round, list(teachers.names), "unlabelled")
    screening.set_limits(context, round, teachers.round)
    screening.label(context, round, teachers.round)
