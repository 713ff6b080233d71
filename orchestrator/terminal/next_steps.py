"""Names the commands that go on from a finished call of `cellsemi round`."""

from __future__ import annotations

import shlex

from rich.console import Console
from rich.markup import escape

from cellsemi.configs.data import GENERATED
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.runs.find_run import argument_of
from cellsemi.rounds.store.run import RunPaths


def next_steps(config: Config, paths: RunPaths) -> list[tuple[str, str]]:
    """(command, what it is for): use the model, read more, and the user's own images or the model as a file."""
    run = shlex.quote(argument_of(paths))
    last = ("cellsemi init FOLDER", "for your own images")
    if config.data.source != GENERATED:
        last = (f"cellsemi model export {run} --out DIR", "the model, to use elsewhere")
    return [
        (f"cellsemi predict IMAGES --run {run} --out DIR", "the cells of other images"),
        (f"cellsemi report {run} --open", "the report, in the browser"),
        last,
    ]


def print_next(config: Config, paths: RunPaths, console: Console | None = None) -> None:
    """The commands, each with what it is for."""
    console = console or Console(highlight=False)
    console.print("\n[bold]Next[/bold]")
    steps = next_steps(config, paths)
    wide = max(len(command) for command, _ in steps)
    for command, purpose in steps:
        console.print(f"  {escape(command.ljust(wide))}   [dim]# {escape(purpose)}[/dim]", soft_wrap=True)
