"""Prints what `cellsemi data` found: figures and hints, the data section, the next command, problems."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cellsemi.configs.errors import UsageError
from cellsemi.configs.presets.preset_files import LOCAL_FILE, preset_names
from cellsemi.orchestrator.terminal.tables import table
from cellsemi.rounds.datasets.ingest_report import copies_sentence, partly_sentence, sentences
from cellsemi.rounds.duration import duration
from cellsemi.rounds.inspect.statistics import ClassFigures, Range
from cellsemi.rounds.store.run import QUARANTINE_FILE, SPLITS, run_name

if TYPE_CHECKING:
    from cellsemi.configs.data import DataConfig
    from cellsemi.orchestrator.describe_dataset import Look
    from cellsemi.rounds.datasets.check_shards import Checked
    from cellsemi.rounds.datasets.ingest_report import IngestReport, Quarantined
    from cellsemi.rounds.formats.base import Exported
    from cellsemi.rounds.formats.shared.detection import Detected
    from cellsemi.rounds.inspect.data_version import DataVersion
    from cellsemi.rounds.inspect.statistics import Inspection

EVERY_S = 3.0  # between two lines of progress
SHOWN_IMAGES = 5  # images that cannot be used; all of them are counted
SHOWN_PROBLEMS = 30


class Count(Protocol):
    """Called with how far a piece of work is; `of` is None where nobody knows."""

    def __call__(self, what: str, done: int, of: int | None) -> None: ...


@contextlib.contextmanager
def counting(silent: bool) -> Iterator[Count]:
    """Plain lines on standard error, one every few seconds; none for work that is done before."""
    shown = time.monotonic()

    def count(what: str, done: int, of: int | None) -> None:
        nonlocal shown
        if not silent and time.monotonic() - shown >= EVERY_S:
            shown = time.monotonic()
            click.echo(f"{what}: {done}" + (f" of {of}" if of is not None else ""), err=True)

    yield count


def picture_path(out: Path | None, data: str | Path | None) -> Path:
    """Where the picture goes; UsageError for a name that is no PNG's."""
    if out is None:
        return Path(f"inspect-{Path(data or 'generated').resolve().name}.png")
    if out.suffix.lower() != ".png":
        raise UsageError(f"--out {out}: the picture is a PNG; name it so")
    return out


def repeated(source: str | None, settings: Sequence[str]) -> list[str]:
    """The options of this call, for the next one."""
    return [*(["--config", source] if source else []), *(word for setting in settings for word in ("--set", setting))]


# --- inspect ------------------------------------------------------------------------------------------


def print_look(look: Look, path: Path | None, options: Sequence[str], console: Console | None = None) -> None:
    """The evidence, the figures, the hints, the data section and the next command."""
    console = console or Console(highlight=False)
    found = look.found
    _print_detected(console, look.detected)
    for other in look.detected.others:
        _line(console, f"  could also be meant: {escape(other)}")
    for note in found.notes:
        _line(console, f"  {escape(note)}")
    _print_images(console, found)
    _print_classes(console, found)
    _print_masks(console, found)
    _print_quarantined(console, found.quarantined, found.seen)
    for hint in look.hints:
        _line(console, f"[yellow]-[/yellow] {escape(hint.text)}")
    if look.picture is not None:
        _line(console, f"\npicture: {escape(str(look.picture))}")
    _line(console, f"\n[bold]For {LOCAL_FILE}[/bold]\n{escape(look.suggested.text.rstrip())}\n")
    for step in _next_steps(look, path, options):
        _line(console, escape(step))
    _print_passed_over(console, found)


def _print_passed_over(console: Console, found: Inspection) -> None:
    """Each kind of annotation, image and file that is not used, with its reason and one of them."""
    lines = [f"{count} {reason}" for reason, count in found.left_out.items()]
    lines += [copies_sentence(found.copies)] if found.copies else []
    lines += [partly_sentence(found.partly_labelled)] if found.partly_labelled else []
    lines += [f"{each.count} {each.reason}: {each.first}" for each in found.passed_over]
    if lines:
        _line(console, "\n[bold]Passed over[/bold]")
    for line in lines:
        _line(console, f"  {escape(line)}")


def _print_detected(console: Console, detected: Detected) -> None:
    """What was recognised, the tool that wrote it where that is known, and the evidence."""
    tool = f" of {escape(detected.tool)}" if detected.tool else ""
    _line(console, f"[bold]{detected.source}[/bold]{tool}  {escape(detected.why)}")


def _next_steps(look: Look, path: Path | None, options: Sequence[str]) -> Iterator[str]:
    """The commands that go on from here. `cellsemi init` writes the lines above; it takes no --config."""
    if path is not None and "--config" not in options:
        yield f"Next: {shlex.join(['cellsemi', 'init', as_argument(path), *options])}   # writes these lines"
    else:
        yield f"Next: put these lines into {LOCAL_FILE}"
    yield f"      cellsemi round {_rounds(look.found.listed['unlabelled'])}"
    root = look.suggested.config.data.root
    if look.detected.source != "shards" and root is not None:
        out = f"{Path(root).resolve().name}-shards"
        words = ["cellsemi", "data", "import", *([] if path is None else [str(path)]), "--out", out, *options]
        yield f"Or first: {shlex.join(words)}   # reads it once, for several runs"


def as_argument(path: Path) -> str:
    """The path as `cellsemi init` takes it: one with the name of a preset is written with a separator."""
    return f".{os.sep}{path}" if str(path) in preset_names() else str(path)


def _print_images(console: Console, found: Inspection) -> None:
    rows = [("images", ", ".join(f"{found.listed[split]} {split}" for split in SPLITS))]
    if found.sampled:
        rows.append(("read", f"{found.seen}, spread over all (--limit): the figures below are of these"))
    if found.height and found.width:
        sizes = "one size" if found.sizes == 1 else f"{found.sizes} sizes"
        rows.append(("height, px", f"{_range(found.height)}  ({sizes})"))
        rows.append(("width, px", _range(found.width)))
    rows.append(("pixels", ", ".join(f"{kind}: {count}" for kind, count in found.pixels.items()) or "-"))
    if found.low and found.high:
        rows.append(("dark, grey value", _range(found.low)))
        rows.append(("bright", _range(found.high)))
    groups = f"{found.groups}, images in each: {_range(found.group_images)}" if found.group_images else "none stated"
    rows += [("groups", groups), ("cells", f"{found.cells} in {found.annotated} annotated images")]
    if found.empty:
        rows.append(("empty", f"{found.empty} images are annotated as empty"))
    console.print()
    for name, value in rows:
        _line(console, f"{name:17} {escape(value)}")


def _print_classes(console: Console, found: Inspection) -> None:
    rows = table("class", "images", "cells", "ignored", "per image", "px: 5%", "25%", "50%", "75%", "95%")
    for name, figures in found.by_class.items():
        areas = [f"{value:.0f}" for value in figures.area.values()] or ["-"] * 5
        counts = (str(figures.images), str(figures.cells), str(figures.ignored))
        rows.add_row(escape(name), *counts, _per_image(figures), *areas)
    if found.by_class:
        _print_right(console, rows)


def _per_image(figures: ClassFigures) -> str:
    return "..".join(f"{value:g}" for value in figures.per_image)


def _print_masks(console: Console, found: Inspection) -> None:
    """What is odd about the masks, if anything is."""
    odd = found.masks
    counts = {
        "cells overlap another": odd.overlapping,
        "cells have holes": odd.with_holes,
        "cells are in several parts": odd.several_parts,
        "cells are a single pixel": odd.single_pixel,
        "masks stand in their image twice": odd.duplicates,
        "cells of images that are listed twice were taken once": odd.repeated,
    }
    more = {
        "cells overlap another": f" ({odd.overlap_mean:.1f} px per image on average, {odd.overlap_max} at most)",
        "cells have holes": f" ({odd.hole_pixels} px)",
    }
    for what, count in counts.items():
        if count:
            _line(console, f"{count} {what}{more.get(what, '')}")


def _print_quarantined(console: Console, rows: Sequence[Quarantined], seen: int) -> None:
    if not rows:
        return
    _line(console, f"[red]{len(rows)} of {seen} images cannot be used:[/red]")
    for row in rows[:SHOWN_IMAGES]:
        _line(console, f"  {escape(row.path)}: {escape(row.problem)}")
    if len(rows) > SHOWN_IMAGES:
        _line(console, f"  and {len(rows) - SHOWN_IMAGES} more (--json lists them)")


def print_init(look: Look | None, out: Path, console: Console | None = None) -> None:
    """What was recognised, if anything was, what there is to consider, and the command that uses the file."""
    console = console or Console(highlight=False)
    if look is not None:
        _print_detected(console, look.detected)
        for other in look.detected.others:
            _line(console, f"  could also be meant: {escape(other)}")
        for note in look.found.notes:
            _line(console, f"  {escape(note)}")
        _print_quarantined(console, look.found.quarantined, look.found.seen)
        for hint in look.hints:
            if not hint.setting:  # the others are lines of the file
                _line(console, f"[yellow]-[/yellow] {escape(hint.text)}")
    where = [] if out == LOCAL_FILE else ["--config", str(out)]
    steps = _rounds(None if look is None else look.found.listed["unlabelled"])
    _line(console, escape(f"{out} written. Next: {shlex.join(['cellsemi', 'round', *steps.split(), *where])}"))


# --- import, export, check ----------------------------------------------------------------------------


def print_import(
    report: IngestReport, data: DataConfig, detected: Detected, out: Path, console: Console | None = None
) -> None:
    """What came in, by split and class, what was left out, and the command that uses it."""
    console = console or Console(highlight=False)
    _print_detected(console, detected)
    rows = table("split", "images", "cells", "ignored", "empty")
    for split in SPLITS:
        counts = (report.images, report.cells, report.ignored, report.empty)
        rows.add_row(split, *(str(values[split]) for values in counts))
    _print_right(console, rows)
    if len(data.classes) > 1:
        rows = table("cells of class", *SPLITS)
        for name in data.classes:
            rows.add_row(escape(name), *(str(report.class_cells[split].get(name, 0)) for split in SPLITS))
        _print_right(console, rows)
    for line in sentences(report, data)[1:]:  # the first one counts the images of the table
        _line(console, escape(line.replace(f"data/{QUARANTINE_FILE}", f"{out}/{QUARANTINE_FILE}")))
    _line(console, f"{escape(str(out))}: written in {duration(report.seconds)}")
    missing = [split for split in ("labelled", "val", "test") if not report.cells[split]]
    if missing:
        _line(console, f"[yellow]-[/yellow] no cells in {', '.join(missing)}: a run needs labelled, val and test")
    steps = _rounds(report.images["unlabelled"])
    _line(console, escape(f"Next: {next_round(out, data.classes, data.one_class_per_image, steps)}"))


def _rounds(unlabelled: int | None) -> str:
    """The rounds to suggest: without unlabelled images only round 0 can be made; None: their number is not known."""
    return "--n 0" if unlabelled == 0 else "--n 3"


def next_round(out: Path, class_names: Sequence[str], one_class_per_image: bool, steps: str) -> str:
    """The command that starts rounds on an import."""
    classes = json.dumps(list(class_names), ensure_ascii=False)
    settings = ["data.source=shards", f"data.root={out}", f"data.classes={classes}"]
    settings += ["data.one_class_per_image=true"] if one_class_per_image else []
    words = [word for setting in settings for word in ("--set", setting)]
    return shlex.join(["cellsemi", "round", *steps.split(), "--run", run_name(out), *words])


def print_export(done: Exported, sentence: str, kind: str, out: Path, console: Console | None = None) -> None:
    """What was written, of what, and each loss with its count."""
    console = console or Console(highlight=False)
    _line(console, escape(sentence))
    files = f"{len(done.files)} files" if len(done.files) != 1 else "1 file"
    _line(console, f"{escape(str(out))}: {kind}, {done.images} images, {done.cells} cells, {files}")
    for what, count in sorted(done.losses.items()):
        _line(console, f"  not in it: {count} {escape(what)}")


def print_checked(checked: Checked, path: Path, console: Console | None = None) -> None:
    """What was checked, and what is wrong with it."""
    console = console or Console(highlight=False)
    counts = ", ".join(f"{count} {what}" for what, count in checked.counts.items())
    _line(console, f"{escape(str(path))}: {checked.what}" + (f", {counts}" if counts else ""))
    for problem in checked.problems[:SHOWN_PROBLEMS]:
        _line(console, f"  {escape(str(problem))}")
    if len(checked.problems) > SHOWN_PROBLEMS:
        _line(console, f"  and {len(checked.problems) - SHOWN_PROBLEMS} more (--json lists them)")
    count = len(checked.problems)
    _line(console, f"[red]{count} problem{'s' * (count > 1)}[/red]" if count else "[green]Nothing is wrong.[/green]")


def print_version(folder: Path, found: DataVersion, changes: Sequence[str]) -> None:
    """The version of a data set, and what of it has changed."""
    console = Console(highlight=False)
    size = f"{len(found.hashes)} file{'s' * (len(found.hashes) != 1)}, {found.size_bytes / 1e6:.1f} MB"
    _line(console, f"{found.version}  {escape(str(folder))} ({size})")
    for change in changes[:SHOWN_PROBLEMS]:
        _line(console, f"  {escape(change)}")
    if len(changes) > SHOWN_PROBLEMS:
        _line(console, f"  and {len(changes) - SHOWN_PROBLEMS} more (--json lists them)")


def _print_right(console: Console, rows: Table) -> None:
    """A table whose columns are figures but for the first."""
    for column in rows.columns[1:]:
        column.justify = "right"
    console.print(rows)


def _line(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)  # paths and commands that are copied must not be broken


def _range(values: Range) -> str:
    low, middle, high = (f"{value:g}" for value in (round(values[0], 2), round(values[1], 2), round(values[2], 2)))
    return low if low == high else f"{low} .. {middle} .. {high}"
