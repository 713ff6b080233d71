"""Implements `cellsemi report`: writes the page of a run and the reports of its finished rounds, and names them."""

from __future__ import annotations

from pathlib import Path

import click

from cellsemi.orchestrator.cli.options import answer, debug_option, json_option


@click.command()
@click.argument("run", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Another folder, where the run's own is read-only.")
@click.option("--open", "opens", is_flag=True, help="Show the page in the browser.")
@json_option
@debug_option
def report(run: str | None, out: Path | None, opens: bool, as_json: bool) -> None:
    """Write the report of a run: report.html, and a short report.md of every finished round.

    RUN is a name below ./runs or a folder; default: the run worked on last. The page is one file that needs nothing
    else: it can be sent to others. All is made anew from the run's files.
    """
    from cellsemi.configs.errors import RunError
    from cellsemi.orchestrator.runs.find_run import find_run
    from cellsemi.orchestrator.runs.page import write_page
    from cellsemi.orchestrator.runs.report import write_report
    from cellsemi.rounds.store.run import read_config

    paths = find_run(run)
    config = read_config(paths)
    rounds = paths.finished_rounds()
    if not rounds:
        raise RunError(f"{paths.root}: no round is finished yet; `cellsemi status {paths.name}` says how far it is")
    written = [str(write_report(config, paths, round, out)) for round in rounds]
    page = write_page(config, paths, out)
    content = {
        "run": paths.name,
        "folder": str(paths.root),
        "page": str(page.path),
        "page_bytes": page.bytes,
        "page_seconds": page.seconds,
        "reports": written,
    }
    answer(as_json, content, lambda: click.echo("\n".join([page.sentence(), *written])))
    if opens:
        _show(page.path)


def _show(path: Path) -> None:
    """Show a file in the browser; a line says so where there is none."""
    import webbrowser

    from cellsemi.rounds.store import files

    if not webbrowser.open(files.local(path).resolve().as_uri()):
        click.echo(f"no browser was found; open {path.resolve()}", err=True)
