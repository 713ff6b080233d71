"""Brings a run to `n` rounds: the campaign, read first.

Round 0 trains the models on human labels alone: the baseline of every claim. In each later round the
best models so far label the unlabelled images; their masks are fused, filtered and merged with the
human labels; students are trained on them, each from its teacher's weights on, and evaluated on held-out
human labels; they teach the next round only if they are better, and no further round is run when several in
a row were not. Every step checks the disk first, so that the same command after a crash finishes the job,
and after a finished run does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cellsemi.configs.loading import config_hash
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.engine.open import open_engine
from cellsemi.orchestrator.engine.protocol import Engine
from cellsemi.orchestrator.events import EventLog, Watcher
from cellsemi.orchestrator.run_metrics import run_metrics
from cellsemi.orchestrator.runs.page_process import pages_beside
from cellsemi.orchestrator.runs.report import write_report
from cellsemi.orchestrator.stages.build_training_set import build_training_sets
from cellsemi.orchestrator.stages.calibrate_teachers import calibrate_teachers
from cellsemi.orchestrator.stages.check_drift import check_drift
from cellsemi.orchestrator.stages.choose_precision import agree_on_precision
from cellsemi.orchestrator.stages.divide_folds import divide_folds
from cellsemi.orchestrator.stages.evaluate import choose_members, evaluate, with_val
from cellsemi.orchestrator.stages.filter_pseudo_labels import set_thresholds
from cellsemi.orchestrator.stages.fuse import fuse_members
from cellsemi.orchestrator.stages.label_pool import label_pool
from cellsemi.orchestrator.stages.measure_sizes import measure
from cellsemi.orchestrator.stages.predict import predict
from cellsemi.orchestrator.stages.promote import (
    RoundResult,
    control_seeds,
    decide_control,
    decide_round,
    finish_round,
    stopped,
    write_leaderboard,
)
from cellsemi.orchestrator.stages.read_images import (
    bring_code,
    bring_weights,
    check_models,
    note_seen,
    read_images,
    require_pool,
    who_decides_here,
)
from cellsemi.orchestrator.stages.train import Fit, controls_of, first_steps, fit, students_of
from cellsemi.orchestrator.steps.context import Context
from cellsemi.orchestrator.tracking.follow import followed
from cellsemi.rounds.evaluation.ensemble import Ensemble, new_ensemble, standing
from cellsemi.rounds.store import files
from cellsemi.rounds.store.lock import driver_lock
from cellsemi.rounds.store.predictions import EVALUATED, PredictionSet, as_unlabelled
from cellsemi.rounds.store.run import RunPaths, is_control, take_config


def run_campaign(
    config: Config,
    n: int,
    engine: Engine,
    paths: RunPaths,
    watcher: Watcher,
    *,
    after_round: Callable[[], None] = lambda: None,
) -> None:
    """Bring the run at `paths` to `n` rounds; its leaderboard is written after each, and `after_round` called.

    The caller holds the run's lock. Raises a CellsemiError when it cannot go on; what is done is kept.
    """
    take_config(paths, config)
    files.sweep_unfinished(paths.root)
    context = Context(config, config_hash(config), paths, engine, watcher)
    with followed(config, paths, watcher.note):
        _play_all(context, n, after_round)


def _play_all(context: Context, n: int, after_round: Callable[[], None]) -> None:
    config, paths, watcher = context.config, context.paths, context.watcher
    finished = len(paths.finished_rounds())
    if finished <= n:
        check_models(config)
        bring_code(context)
        bring_weights(context)
        read_images(context)
        note_seen(context)
        watcher.note(who_decides_here(context))
        if n > 0:
            require_pool(context)
        divide_folds(context)
        agree_on_precision(context)
        _reopen_from(paths, finished)
    for round in range(finished, n + 1):
        if reason := stopped(context, round):
            watcher.note(f"rounds from {round} on are not run: {reason}")
            break
        play(context, round, last=round == n)
        after_round()
    write_leaderboard(context)


def _reopen_from(paths: RunPaths, round: int) -> None:
    """Take back that rounds from this one on are finished: they follow from one whose manifest is not there."""
    while paths.round(round).is_dir():
        paths.round_manifest(round).unlink(missing_ok=True)
        round += 1


def bring_to(config: Config, n: int, paths: RunPaths, watcher: Watcher) -> None:
    """`run_campaign` on the engine of the config, while this process holds the run; report.html is written beside."""
    with driver_lock(paths), open_engine(config.engine, paths.log) as engine:
        log = open_log(watcher, paths, engine)
        with pages_beside(paths, log.note) as begin_page:
            run_campaign(config, n, engine, paths, log, after_round=begin_page)


def open_log(watcher: Watcher, paths: RunPaths, engine: Engine) -> EventLog:
    """The log of a driver: what goes to the watcher is written, with what the engine used, and shown to Prometheus."""
    return EventLog(watcher, paths.events, take_usage=engine.take_usage, on_event=run_metrics(paths.name))


def play(context: Context, round: int, last: bool) -> None:
    """One round, from its teachers to its decision."""
    teachers = standing(context.paths) if round else None
    if teachers is not None:
        label(context, round, teachers)
    build_training_sets(context, round)
    # A student that has to find its steps says only afterwards how long its control takes.
    known = first_steps(context, round) if teachers and context.config.rounds.control else 0
    beside = controls_of(context, round, teachers.steps + known, 1) if teachers and known and last else []
    names = train(context, round, students_of(context, round, teachers.round if teachers else None) + beside)
    students = [name for name in names if not is_control(name)]
    candidate, why = form_ensemble(context, round, students)
    evaluate(context, round, names)
    decision = decide_round(context, round, candidate, teachers)
    if teachers and context.config.rounds.control and (last or stopped(context, round, decision)):
        # That this round is the last one, and how many controls are fair, may be known only now.
        steps = teachers.steps + first_steps(context, round)
        controls = controls_of(context, round, steps, control_seeds(context, round, decision))
        if missing := controls[len(beside) :]:
            names += train(context, round, missing)
            evaluate(context, round, names)
    control, on_control = None, None
    if teachers is not None and (controls_there := list(filter(is_control, names))):
        standing_now = candidate if decision.promoted else teachers
        control, on_control = decide_control(context, round, standing_now, controls_there)
        context.watcher.note(f"round {round}: control: {on_control.reason}")
    finish_round(context, RoundResult(round, tuple(names), candidate, why, teachers, decision, control, on_control))
    write_report(context.config, context.paths, round)
    context.watcher.note(f"round {round}: {decision.reason}")


def train(context: Context, round: int, fits: list[Fit]) -> list[str]:
    """Train models and predict val and test with them; returns the names of those that did not diverge."""
    names = fit(context, round, fits)
    for split in EVALUATED:
        for name in names:
            predict(context, round, PredictionSet(round, name, None, split))
    return names


def form_ensemble(context: Context, round: int, students: list[str]) -> tuple[Ensemble, str]:
    """Calibrate the students and fuse those that form the round's ensemble; returns it, and why these."""
    students = with_val(context, round, students)
    on = PredictionSet(round, students[0], None, "val")
    calibration = calibrate_teachers(context, round, students, on, context.paths.calibration(round))
    chosen = choose_members(context, round, students, calibration)
    ensemble = new_ensemble(context.config, round, chosen.members, calibration)
    for split in EVALUATED:
        fuse_members(context, round, ensemble, split)
    return ensemble, chosen.why


def label(context: Context, round: int, teachers: Ensemble) -> None:
    """The teachers predict the unlabelled images; their fused predictions are filtered.

    Calibration and thresholds come from human labels that they predict first, with the same settings.
    """
    trusted = as_unlabelled(context.config)
    for name in teachers.members:
        predict(context, round, PredictionSet(teachers.round, name, None, trusted))
    on = PredictionSet(teachers.round, teachers.members[0], None, trusted)
    output = context.paths.teachers_calibration(round)
    calibrated = replace(teachers, calibration_file=calibrate_teachers(context, round, teachers.members, on, output))
    # The round that trained the teachers has fused its predictions of val already.
    fuse_members(context, round, teachers if trusted == "val" else calibrated, trusted)
    set_thresholds(context, round, teachers)
    label_pool(context, round, calibrated)
    if round == 1:
        measure(context, teachers.members)
    if context.config.rounds.drift_alarms:
        check_drift(context, round)
