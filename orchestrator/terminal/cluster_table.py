"""Prints what a check of a cluster found: a line for each answer, however many nodes gave it, then the remedies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from cellsemi.orchestrator.cluster.findings import Group, grouped
from cellsemi.orchestrator.engine.resources import with_noun
from cellsemi.orchestrator.terminal.tables import table

if TYPE_CHECKING:
    from cellsemi.orchestrator.cluster.findings import ClusterReport

COLOURS = {"ok": "green", "failed": "red", "not checked": "yellow"}
NAMED = 3  # so many nodes are named in a line; more are counted


def print_cluster(report: ClusterReport, console: Console | None = None) -> None:
    """The table, the remedy of each failed line, and the verdict."""
    console = console or Console(highlight=False)
    nodes = len(report.nodes) - 1
    here = report.driver
    console.print(
        escape(f"cluster {report.address}: {with_noun(nodes, 'node')}; the run lies in {report.folder}\n")
        + escape(
            f"driver: Python {here.python}, Ray {here.ray}, cellsemi {here.cellsemi} ({here.code}), torch {here.torch}"
        ),
        soft_wrap=True,
    )
    groups = grouped(report.nodes)
    rows = table("check", "", "found", "on")
    rows.columns[2].no_wrap = False
    rows.columns[2].overflow = "fold"
    for group in groups:
        colour = COLOURS[group.verdict]
        rows.add_row(
            group.check, f"[{colour}]{group.verdict}[/{colour}]", escape(group.words), escape(_on(group, nodes))
        )
    console.print(rows)
    for group in groups:
        if group.verdict == "failed":
            console.print(
                f"[red]{group.check}[/red] on {escape(', '.join(group.nodes))}: {escape(group.words)}\n"
                f"    {escape(group.remedy)}",
                soft_wrap=True,
            )
    failed = sum(group.verdict == "failed" for group in groups)
    verdict = (
        "[green]The cluster can do the work.[/green]" if report.healthy else f"[red]{with_noun(failed, 'fault')}.[/red]"
    )
    console.print(verdict)


def _on(group: Group, nodes: int) -> str:
    """The nodes of a line: their names where they are few, else how many of all."""
    if len(group.nodes) == nodes and nodes > 1:
        return f"all {nodes}"
    return ", ".join(group.nodes) if len(group.nodes) <= NAMED else f"{len(group.nodes)} of {nodes}"
