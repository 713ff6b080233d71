"""Implements `cellsemi report`: writes the reports of all finished rounds of a run, and names them."""

from __future__ import annotations

from pathlib import Path

import click

from cellsemi.orchestrator.cli.options import answer, debug_option, json_option


@click.command()
@click.argument("run", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Another folder, where the run's own is read-only.")
@json_option
@debug_option
def report(run: str | None, out: Path | None, as_json: bool) -> None:
    """Write a report of every finished round.

    RUN is a name below ./runs or a folder; default: the run worked on last. Each round gets report.md and a
    picture, made anew from the run's files.
    """
    from cellsemi.configs.errors import RunError
    from cellsemi.orchestrator.runs.find_run import find_run
    from cellsemi.orchestrator.runs.report import write_report
    from cellsemi.rounds.store.run import read_config

    paths = find_run(run)
    config = read_config(paths)
    rounds = paths.finished_rounds()
    if not rounds:
        raise RunError(f"{paths.root}: no round is finished yet; `cellsemi status {paths.name}` says how far it is")
    written = [str(write_report(config, paths, round, out)) for round in rounds]
    content = {"run": paths.name, "folder": str(paths.root), "reports": written}
    answer(as_json, content, lambda: click.echo("\n".join(written)))
