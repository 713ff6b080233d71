"""Shows the plan of a call: which steps are kept, which are to do, which are done again and why."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import JsonValue
from rich.console import Console
from rich.markup import escape

from cellsemi.orchestrator.runs.plan import Plan, PlannedStep
from cellsemi.orchestrator.terminal import tables

COLOURS = {"kept": "green", "to do": "default", "redone": "yellow"}


def to_json(plan: Plan) -> dict[str, JsonValue]:
    """The plan as plain values."""
    return {
        "run": str(plan.paths.root),
        "changes": list(plan.changes),
        "steps": [asdict(step) for step in plan.steps],
    }


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """The changed settings, then a line for each step."""
    console = console or Console(highlight=False)
    console.print(f"[bold]{escape(str(plan.paths.root))}[/bold]", soft_wrap=True)
    for change in plan.changes:
        console.print(f"changed: {escape(change)}", soft_wrap=True)
    rows = tables.table("round", "step", "state", "because")
    for column in (rows.columns[1], rows.columns[3]):
        column.no_wrap = False  # a setting and its values may be long: they are read to the end
    for step in plan.steps:
        rows.add_row(*_cells(step))
    console.print(rows)
    kept, redone, todo = (plan.count(state) for state in ("kept", "redone", "to do"))
    console.print(f"{kept} steps kept, {redone} done again, {todo} to do. Nothing was changed.")
    if any(step.name == "finish the round" and step.state == "redone" for step in plan.steps):
        console.print(
            "Models that the new settings add are trained, too. A decision that is made anew may change who teaches "
            "the rounds after it; their steps then follow.",
            style="dim",
        )


def _cells(step: PlannedStep) -> tuple[str, ...]:
    colour = COLOURS[step.state]
    return str(step.round), escape(step.name), f"[{colour}]{step.state}[/{colour}]", escape(step.because)
