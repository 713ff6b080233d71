"""Prints tables on a terminal: the leaderboard, the doctor's report, the flow check.

A narrow terminal gets fewer columns of the leaderboard, and a line that names the others and where they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:  # each command imports only what it shows
    from cellsemi.orchestrator.doctor import Package, Report
    from cellsemi.orchestrator.flow_check import FlowResult
    from cellsemi.rounds.evaluation.leaderboard import Row
    from cellsemi.rounds.store.run import RunPaths

GAP = 2  # blanks between two columns of a table
SUFFIXES = (".md", ".csv", ".parquet")
LEADING_ZERO = re.compile(r"(?<!\d)0(?=\.\d)\.")
INTERVALS = "intervals of "
# What is kept of the leaderboard when the terminal is narrow; columns that are not listed come last.
PRIORITY = (
    "round",
    "model",
    "test mAP",
    "vs control",
    "change",
    "decision",
    f"{INTERVALS}vs control",
    f"{INTERVALS}test mAP",
    f"{INTERVALS}change",
    "val mAP",
    f"{INTERVALS}val mAP",
    "F1",
    "rank",
    "accepted",
)


def table(*headers: str) -> Table:
    """The one style of all tables: GAP blanks between columns, no word wrapped."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False)
    for header in headers:
        made.add_column(header, no_wrap=True)
    return made


# --- leaderboard --------------------------------------------------------------------------------------


def read_leaderboard(paths: RunPaths) -> tuple[list[Row], str]:
    """The rows of a run's leaderboard and the verdict on it; RunError while no round has been judged."""
    from cellsemi.rounds.evaluation.history import read_verdict
    from cellsemi.rounds.evaluation.leaderboard import read

    return read(paths.leaderboard), read_verdict(paths)


def leaderboard_json(paths: RunPaths) -> dict[str, object]:
    """What `--json` prints: the run, its rows with all digits, the verdict, the files."""
    rows, sentence = read_leaderboard(paths)
    return {
        "run": paths.name,
        "folder": str(paths.root),
        "verdict": sentence,
        "rows": [row.to_json() for row in rows],
        "files": [str(paths.leaderboard.with_suffix(suffix)) for suffix in SUFFIXES],
    }


def print_leaderboard(paths: RunPaths, console: Console | None = None) -> None:
    """The verdict, the table as wide as the terminal allows, and where the files are. What to use is in green."""
    from cellsemi.rounds.evaluation.figures import CHOSEN_ON
    from cellsemi.rounds.evaluation.leaderboard import display_rows

    console = console or Console(highlight=False)
    rows, sentence = read_leaderboard(paths)
    header, cells = display_rows(rows)
    shown, missing = fit_columns(header, [[short(cell) for cell in row] for row in cells], console.width)
    made = table(*("\n".join(_header_lines(name)) for name in shown))
    for name, column in zip(shown, made.columns, strict=True):
        column.justify = "left" if name == "model" else "right"
    for row, line in zip(rows, zip(*shown.values(), strict=True), strict=True):
        made.add_row(*map(escape, line), style="green" if row.recommended else None)
    console.print(escape(sentence), style="bold")
    console.print(f"\n[bold]{escape(paths.name)}[/bold]")
    console.print(made)
    console.print(f"Brackets: {rows[0].confidence:.0%} bootstrap intervals over n images.")
    if chosen_on := [name.partition(" (")[0] for name in shown if CHOSEN_ON in name]:
        console.print(
            f"{', '.join(chosen_on)}: thresholds, promotion and rank were chosen on these images; it flatters."
        )
    if missing:
        console.print(f"Not shown at this width: {', '.join(missing)}.")
    names = ", ".join(paths.leaderboard.with_suffix(suffix).name for suffix in SUFFIXES)
    console.print(f"{names} in {escape(str(paths.root))}", soft_wrap=True)


def fit_columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, priority: Sequence[str] = PRIORITY
) -> tuple[dict[str, list[str]], list[str]]:
    """The columns that fit into `width`, those of `priority` first, and the names of the rest.

    Columns come back in the order of `header`, by their whole header. One whose intervals do not fit is shown without
    them; they are then among the rest as "intervals of NAME". `priority` holds names of both kinds.
    """
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    bare = {name: [_without_brackets(cell) for cell in cells] for name, cells in columns.items()}
    wishes = {_without_brackets(name): name for name in header}
    wishes |= {INTERVALS + short_name: name for short_name, name in wishes.items() if bare[name] != columns[name]}
    order = sorted(wishes, key=lambda wish: priority.index(wish) if wish in priority else len(priority))
    chosen: dict[str, list[str]] = {}
    missing = []
    used = 2  # the table's own edges
    for wish in order:
        name = wishes[wish]
        cells = columns[name] if wish.startswith(INTERVALS) else bare[name]
        more = _width(name, cells) - (_width(name, chosen[name]) if name in chosen else 0)
        if used + more <= width and (name in chosen or not wish.startswith(INTERVALS)):
            used += more
            chosen[name] = cells
        elif name in chosen or not wish.startswith(INTERVALS):
            missing.append(wish)
    return {name: chosen[name] for name in header if name in chosen}, missing


def _width(name: str, cells: Sequence[str]) -> int:
    return max(map(len, [*_header_lines(name), *cells])) + GAP


def _header_lines(name: str) -> list[str]:
    """A header over several lines: `val mAP (chosen on, n = 12)` is wider than its column."""
    first, bracket, rest = name.partition(" (")
    return [first, *rest.removesuffix(")").split(", ")] if bracket else [first]


def _without_brackets(text: str) -> str:
    return text.partition(" (")[0]


def short(cell: str) -> str:
    """`0.431 (0.390..0.470)` as `.431 (.390, .470)`: there are many figures and few columns."""
    return LEADING_ZERO.sub(".", cell.replace("..", ", "))


# --- doctor and flows ---------------------------------------------------------------------------------


def print_report(report: Report, console: Console | None = None) -> None:
    """The doctor's report: packages, what mends the missing ones, devices, disk, Ray."""
    console = console or Console(highlight=False)
    rows = table("package", "installed", "wanted", "")
    for package in report.packages:
        rows.add_row(package.name, package.version or "missing", package.wanted, _judgement(package))
    console.print(f"cellsemi {report.cellsemi}, Python {report.python}, {report.platform}")
    console.print(rows)
    for package in report.packages:
        if package.remedy:
            # soft_wrap: a command that is copied must not be broken by the terminal's width
            console.print(f"{package.name}: {escape(package.remedy)}", soft_wrap=True)
    console.print(f"devices:   {escape(', '.join(report.devices) or 'none')}", soft_wrap=True)
    for device, native in report.bfloat16.items():
        chosen = f"bfloat16 on {device} ({native})" if native else f"float32 on {device}: no bfloat16 arithmetic"
        console.print(f"training:  {escape(chosen)}, with training.precision: auto", soft_wrap=True)
    for device, faster in (report.bfloat16_faster or {}).items():
        console.print(f"bfloat16:  {'faster' if faster else 'not faster'} than float32 on {escape(device)}")
    console.print(f"CPUs:      {report.cpus}")
    console.print(f"free disk: {report.free_disk_gb} GB below {escape(report.folder)}", soft_wrap=True)
    address = report.ray.get("RAY_ADDRESS")
    ray = f"the cluster at {address} (RAY_ADDRESS)" if address else "RAY_ADDRESS is not set: a local Ray is started"
    console.print(f"Ray:       {escape(ray)}", soft_wrap=True)
    if address and "RAY_AUTH_MODE" not in report.ray:
        console.print("           a cluster with token authentication also needs RAY_AUTH_MODE=token", soft_wrap=True)
    for line in report.warnings:
        console.print(f"[yellow]warning:[/yellow]   {escape(line)}", soft_wrap=True)
    console.print(
        "[green]All that is required is there.[/green]" if report.healthy else "[red]Something is missing.[/red]"
    )


def _judgement(package: Package) -> str:
    if package.fine:
        return "[green]ok[/green]"
    if not package.required:
        return "[dim]optional[/dim]"
    return "[red]missing[/red]" if package.version is None else "[red]too old or too new[/red]"


def print_flows(results: Sequence[FlowResult], console: Console | None = None) -> None:
    """Cells that come back from each flow target, by class."""
    console = console or Console(highlight=False)
    rows = table("class", "target", "images", "cells", "made", ">.5", ">.75", ">.9", "IoU", "s/image")
    for column in rows.columns[2:]:
        column.justify = "right"
    for result in results:
        shares = (f"{result.share(count):.3f}" for count in (result.at_50, result.at_75, result.at_90))
        rows.add_row(
            escape(result.class_name),
            result.target,
            str(result.images),
            str(result.cells),
            str(result.found),
            *shares,
            f"{result.mean_iou:.3f}",
            f"{result.seconds / max(result.images, 1):.3f}",
        )
    console.print(rows)
    console.print(
        "Ground-truth cells, the masks made of their targets, the share of the cells that comes back at "
        "three IoU limits, and the mean IoU: what a perfect network would reach."
    )
    covered = max((result.covered for result in results), default=0)
    if covered:
        console.print(f"Up to {covered} cells of a class lie wholly under others and are not counted.")
