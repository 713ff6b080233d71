"""Implements `cellsemi ablate`: what each part of the method adds, in one table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from cellsemi.orchestrator.cli.options import Session, answer, config_options, debug_option, json_option

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from cellsemi.configs.loading import LoadedConfig
    from cellsemi.orchestrator.ablation import Plan
    from cellsemi.orchestrator.engine.protocol import Engine
    from cellsemi.rounds.evaluation.ablation_table import Table

# What is kept when the terminal is narrow; the lines below the table say what was switched.
PRIORITY = (
    "part",
    "promoted mAP",
    "last mAP",
    "change",
    "intervals of change",
    "last change",
    "intervals of last change",
    "switched",
    "by seed",
    "last by seed",
)


@click.command()
@click.option("--n", "target", type=click.IntRange(min=0), help="The round that every run comes to.")
@config_options
@click.option("--seed", "seeds", type=click.IntRange(min=0), multiple=True, help="Default: run.seed. May be repeated.")
@click.option("--part", "names", metavar="NAME", multiple=True, help="Switch this part. May be repeated; default: all.")
@click.option("--list", "as_list", is_flag=True, help="List the parts and do nothing else.")
@click.option("--run", "name", help="First part of the names of the runs (run.name).")
@click.option("--engine", type=click.Choice(["ray", "inline"]), help="Where the work runs (engine.kind).")
@click.option("--address", help="Ray cluster to use (engine.address); else RAY_ADDRESS; else a local Ray.")
@json_option
@debug_option
@click.pass_context
def ablate(
    context: click.Context,
    *,
    target: int | None,
    source: str | None,
    settings: tuple[str, ...],
    seeds: tuple[int, ...],
    names: tuple[str, ...],
    as_list: bool,
    name: str | None,
    engine: str | None,
    address: str | None,
    as_json: bool,
) -> None:
    """Measure what each part of the method adds.

    Brings the config as it is, and once more for each part with that part switched the other way, to N
    rounds with each seed. All runs are ordinary ones below run.root, and go on where an earlier call
    stopped. Progress goes to standard error, the table to standard output and beside the runs. Exit code 1
    when a run failed.
    """
    from cellsemi.configs.ablation_parts import PARTS, find_parts
    from cellsemi.configs.loading import load_config
    from cellsemi.orchestrator.ablation import make_plan

    if as_list:
        answer(as_json, _parts_json(), _print_parts)
        return
    if target is None:
        raise click.UsageError("Missing option '--n'.")
    named = {"run.name": name, "engine.kind": engine, "engine.address": address}
    overrides = [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]
    loaded = load_config(source, [*settings, *overrides])
    parts = find_parts(names or tuple(PARTS))
    plan = make_plan(loaded.config, target, parts, seeds or (loaded.config.run.seed,), strict=bool(names))
    session: Session = context.obj
    session.log = plan.table.with_name(f"{plan.table.name}.log")
    table = _drive(loaded, plan, session.log, silent=as_json)
    written = table.write(plan.table)
    content = {**table.to_json(), "files": [str(path) for path in written]}
    answer(as_json, content, lambda: print_table(table, written))
    context.exit(1 if table.failures else 0)


def _drive(loaded: LoadedConfig, plan: Plan, log: Path, silent: bool) -> Table:
    """Carry the runs out; say what is used before it starts."""
    from cellsemi.orchestrator.ablation import carry_out, gather
    from cellsemi.orchestrator.terminal.quiet import quiet_output
    from cellsemi.orchestrator.terminal.watchers import open_watcher
    from cellsemi.rounds.evaluation.ablation_table import Table, make_rows

    with quiet_output(log) as stream:
        if not silent:
            seeds = ", ".join(map(str, plan.seeds))
            click.echo(f"config: {loaded.origin}\nruns:   {len(plan.runs)}, seeds {seeds}", file=stream)
        with open_watcher(stream, silent) as watcher:
            errors = carry_out(plan, lambda: _open(plan, log), watcher)
    promotion = plan.base.rounds.promotion
    rows = make_rows(gather(plan, errors), promotion)
    return Table(rows, plan.base.run.name, plan.notes, promotion.confidence)


def _open(plan: Plan, log: Path) -> Engine:
    from cellsemi.orchestrator.engine.open import open_engine

    return open_engine(plan.base.engine, log)


def print_table(table: Table, written: list[Path], console: Console | None = None) -> None:
    """The table as wide as the terminal allows, what was switched, what failed, and where the files are."""
    from rich.console import Console
    from rich.markup import escape

    from cellsemi.orchestrator.terminal import tables
    from cellsemi.rounds.evaluation.ablation_table import display_rows

    console = console or Console(highlight=False)
    header, cells = display_rows(table.rows)
    narrow = [[tables.short(cell) for cell in row[:-1]] for row in cells]  # the settings have their own lines below
    shown, missing = tables.fit_columns(header[:-1], narrow, console.width, PRIORITY)
    made = tables.table(*shown)
    for name, column in zip(shown, made.columns, strict=True):
        column.justify = "left" if name in ("part", "switched") else "right"
    for values in zip(*shown.values(), strict=True):
        made.add_row(*map(escape, values))
    console.print(f"[bold]Ablation of {escape(table.title)}[/bold]")
    console.print(made)
    for row in table.rows[1:]:
        console.print(escape(f"{row.part} switched {row.to}: {' '.join(row.settings)}"), soft_wrap=True)
    for line in table.notes:
        console.print(f"[yellow]{escape(line)}[/yellow]", soft_wrap=True)
    for line in table.failures:
        console.print(f"[red]failed:[/red] {escape(line)}", soft_wrap=True)
    console.print(escape(" ".join(table.legend.split())), style="dim")
    if missing:
        console.print(f"Not shown at this width: {', '.join(missing)}.")
    names = ", ".join(path.name for path in written)
    console.print(f"{escape(names)} in {escape(str(written[0].parent))}", soft_wrap=True)


def _parts_json() -> list[dict[str, object]]:
    from cellsemi.configs.ablation_parts import PARTS

    return [
        {"name": part.name, "sentence": part.sentence, "source": part.source, "on": part.on, "off": part.off}
        for part in PARTS.values()
    ]


def _print_parts() -> None:
    from cellsemi.configs.ablation_parts import PARTS

    width = max(map(len, PARTS))
    for part in PARTS.values():
        click.echo(f"{part.name:{width}}  {part.sentence}")
