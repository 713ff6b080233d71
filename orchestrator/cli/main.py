"""Runs the commands of `cellsemi`: each reads its options, calls one function and prints the result.

Large packages are imported inside the commands, so that `cellsemi --help` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from cellsemi.configs.errors import CellsemiError
from cellsemi.models.training.stop import Terminated, catch_sigterm
from cellsemi.orchestrator.cli import models
from cellsemi.orchestrator.cli.ablate import ablate
from cellsemi.orchestrator.cli.app import app
from cellsemi.orchestrator.cli.cluster import cluster
from cellsemi.orchestrator.cli.data import data
from cellsemi.orchestrator.cli.evaluate import evaluate
from cellsemi.orchestrator.cli.explain import explain
from cellsemi.orchestrator.cli.init import init
from cellsemi.orchestrator.cli.model import model
from cellsemi.orchestrator.cli.options import Session, answer, config_options, debug_option, json_option
from cellsemi.orchestrator.cli.predict import predict
from cellsemi.orchestrator.cli.report import report
from cellsemi.orchestrator.cli.review import review
from cellsemi.orchestrator.cli.submit import submit
from cellsemi.orchestrator.terminal.quiet import outlast_readers

if TYPE_CHECKING:
    from cellsemi.configs.loading import LoadedConfig
    from cellsemi.rounds.store.run import RunPaths

INTERRUPTED = 130  # 128 + SIGINT, what a shell expects
TERMINATED = 143  # 128 + SIGTERM, what a batch system sends
run_argument = click.argument("run", required=False)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated."""
    session = Session(debug=os.environ.get("CELLSEMI_DEBUG", "") not in ("", "0"))
    outlast_readers()
    sys.excepthook = session.crashed
    catch_sigterm()
    try:
        code = cli.main(args=args, prog_name="cellsemi", standalone_mode=False, obj=session)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        session.stopped("Interrupted")
        sys.exit(INTERRUPTED)
    except Terminated:
        session.stopped("Terminated")
        sys.exit(TERMINATED)
    except CellsemiError as error:
        if session.debug:
            traceback.print_exc()
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    sys.exit(code or 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="cellsemi", message="cellsemi %(version)s")
@debug_option
def cli() -> None:
    """Semi-supervised pseudo-labelling rounds for cell instance segmentation.

    `cellsemi round --n 3` brings a run to three rounds, and goes on where an earlier call stopped.
    """


cli.add_command(init)
cli.add_command(data)
cli.add_command(ablate)
cli.add_command(app)
cli.add_command(cluster)
cli.add_command(evaluate)
cli.add_command(explain)
cli.add_command(predict)
cli.add_command(report)
cli.add_command(review)
cli.add_command(submit)
cli.add_command(model)
cli.add_command(models.models)
cli.add_command(models.weights)


@cli.command()
@click.option(
    "--n",
    "target",
    type=click.IntRange(min=0),
    required=True,
    help="The round to reach; 0: human labels only.",
)
@config_options
@click.option("--run", "name", help="A run, by name or folder. One that exists goes on with its own config.")
@click.option("--engine", type=click.Choice(["ray", "inline"]), help="Where the work runs (engine.kind).")
@click.option("--address", help="Ray cluster to use (engine.address); else RAY_ADDRESS; else a local Ray.")
@click.option("--grace", type=float, help="Seconds for last checkpoints after SIGTERM (engine.grace_s).")
@click.option("--dry-run", is_flag=True, help="Show which steps are kept, to do, or done again; change nothing.")
@click.option("--take-new", "take_new", is_flag=True, help="Learn from images that were labelled since the start.")
@click.option("--accept-changes", "accept", is_flag=True, help="Take changed settings: redo the steps that read them.")
@json_option
@debug_option
@click.pass_obj
def round(
    session: Session,
    *,
    target: int,
    source: str | None,
    settings: tuple[str, ...],
    name: str | None,
    engine: str | None,
    address: str | None,
    grace: float | None,
    dry_run: bool,
    take_new: bool,
    accept: bool,
    as_json: bool,
) -> None:
    """Bring a run to N rounds of pseudo-labelling.

    The same command goes on after a crash, and does nothing when the rounds are done; so does --run NAME alone, with
    the config of that run. Progress goes to standard error, the leaderboard to standard output. A run whose
    settings changed is refused, unless --accept-changes is given: then the steps that read them are done again,
    and the others are kept. Images of the data folder that were labelled since the start are counted, and teach from
    the next round on with --take-new; val and test stay what they are.
    """
    from cellsemi.orchestrator.runs.choose_config import choose_config
    from cellsemi.orchestrator.runs.plan import make_plan, refuse_changes
    from cellsemi.orchestrator.terminal import next_steps, plan_table, tables
    from cellsemi.rounds.store.run import open_run

    named = {"engine.kind": engine, "engine.address": address, "engine.grace_s": grace}
    overrides = [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
    loaded, unread = choose_config(source, name, [*settings, *overrides])
    plan = make_plan(loaded.config, target)
    if unread and not as_json:
        click.echo(unread, err=True)
    if dry_run:
        answer(as_json, plan_table.to_json(plan), lambda: plan_table.print_plan(plan))
        return
    if plan.asks and not accept:
        raise refuse_changes(plan)
    paths = plan.paths if plan.changes else open_run(loaded.config)
    session.log = paths.log
    _drive(loaded, target, paths, take_new=take_new, silent=as_json)
    answer(as_json, tables.leaderboard_json(paths), lambda: tables.print_leaderboard(paths))
    if not as_json:
        next_steps.print_next(loaded.config, paths)


@cli.command()
@run_argument
@json_option
@debug_option
def leaderboard(run: str | None, as_json: bool) -> None:
    """Show the leaderboard of a run, and the verdict.

    RUN is a name below ./runs or a folder; default: the run worked on last.
    """

    from cellsemi.orchestrator.runs.find_run import find_run
    from cellsemi.orchestrator.terminal import tables

    paths = find_run(run)
    answer(as_json, tables.leaderboard_json(paths), lambda: tables.print_leaderboard(paths))


@cli.command()
@run_argument
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C; with --json a line each time.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds in between.")
@json_option
@debug_option
def status(run: str | None, watch: bool, interval: float, as_json: bool) -> None:
    """Show how far a run is.

    RUN is a name below ./runs or a folder; default: the run worked on last. Only the folder is read: the driver may
    be on another machine.
    """

    from cellsemi.orchestrator.runs.find_run import find_run
    from cellsemi.orchestrator.runs.status import read_status
    from cellsemi.orchestrator.terminal import status_table
    from cellsemi.orchestrator.terminal import watch as watching

    paths = find_run(run)
    if watch:
        watching.watch(paths, interval, sys.stdout, as_json)
        return
    found = read_status(paths)
    answer(as_json, found.to_json(), lambda: status_table.print_status(found))


@cli.command()
@click.option("--measure", is_flag=True, help="Also time whether bfloat16 is faster here.")
@json_option
@debug_option
@click.pass_context
def doctor(context: click.Context, measure: bool, as_json: bool) -> None:
    """Show what this machine has and lacks.

    Exit code 1 when something required is missing.
    """

    from cellsemi.orchestrator.doctor import examine
    from cellsemi.orchestrator.terminal import tables

    report = examine(measure)
    answer(as_json, report.to_json(), lambda: tables.print_report(report))
    context.exit(0 if report.healthy else 1)


@cli.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@config_options
@click.option("--limit", type=click.IntRange(min=1), help="Check this many images, spread over the data set.")
@json_option
@debug_option
def flows(folder: Path | None, source: str | None, settings: tuple[str, ...], limit: int | None, as_json: bool) -> None:
    """Show what the flow targets can represent.

    Converts ground truth to each target and back to masks: no network can score higher. Checks the annotated
    images of FOLDER (image shards of a run), or else the training and validation images of the config's data
    set. Test images are not read.
    """

    from cellsemi.configs.loading import load_config
    from cellsemi.orchestrator.flow_check import check_config, check_folder
    from cellsemi.orchestrator.terminal import tables

    results = check_folder(folder, limit) if folder else check_config(load_config(source, settings).config, limit)
    answer(as_json, [result.to_json() for result in results], lambda: tables.print_flows(results))


def _drive(loaded: LoadedConfig, target: int, paths: RunPaths, *, take_new: bool, silent: bool) -> None:
    """Run the campaign while holding the lock of the run; print what is used before it starts."""
    from cellsemi.orchestrator.campaign import open_log, run_campaign
    from cellsemi.orchestrator.engine.open import open_engine
    from cellsemi.orchestrator.review.new_images import look_for_new
    from cellsemi.orchestrator.runs.plan import accept_changes
    from cellsemi.orchestrator.terminal.quiet import quiet_output
    from cellsemi.orchestrator.terminal.watchers import open_watcher
    from cellsemi.orchestrator.tracking.follow import followed
    from cellsemi.rounds.store.lock import driver_lock

    with driver_lock(paths) as without_locks, quiet_output(paths.log) as stream:

        def print_line(line: str) -> None:
            if not silent:
                click.echo(line, file=stream)

        print_line(f"config: {loaded.origin}\nrun:    {paths.root}")
        if without_locks:
            print_line(without_locks)
        if redone := accept_changes(loaded.config, paths):
            print_line(
                f"{len(redone)} steps are done again; their files lie in superseded/ until their round is finished"
            )
        for line in look_for_new(paths, loaded.config, take=take_new):
            print_line(line)
        if len(paths.finished_rounds()) > target and paths.leaderboard.with_suffix(".parquet").is_file():
            print_line(f"Nothing to do: round {target} is done.")
            with followed(loaded.config, paths, print_line):
                pass  # a tracker that is new is told what there is
            return
        with open_engine(loaded.config.engine, paths.log) as engine, open_watcher(stream, silent) as watcher:
            print_line(f"engine: {engine.describe()}")
            run_campaign(loaded.config, target, engine, paths, open_log(watcher, paths, engine))
