"""Prints what was predicted, scored and submitted."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape

from cellsemi.orchestrator.apply.outputs import place_of
from cellsemi.orchestrator.terminal.tables import table
from cellsemi.rounds.evaluation.bootstrap import enough, too_few

if TYPE_CHECKING:
    from cellsemi.orchestrator.apply.evaluate import Judgement
    from cellsemi.orchestrator.apply.model_folder import ModelFolder
    from cellsemi.orchestrator.apply.predict import Application
    from cellsemi.orchestrator.apply.predict_files import Predicted
    from cellsemi.orchestrator.apply.submit import Submission
    from cellsemi.rounds.evaluation.figures import Interval

LOG = "cellsemi.log"  # beside what is written: the output of libraries, and the details of a crash
WIDE = 100  # columns from which all figures of an evaluation are shown; the JSON has them always
SHOWN = 5  # images that cannot be used; all of them stand in a file


def print_application(done: Application) -> None:
    """What was predicted, by which model, what was written where, and what was left out."""
    click.echo(f"{done.model}: {done.cells} cells in {_plural(done.images, 'image')}, {done.keep}")
    print_counts(done.predicted)
    for name, written in done.written.items():
        click.echo(f"  {name:14} {place_of(name, done.out)}")
        for loss, count in written.losses.items():
            click.echo(f"  {'':14} {count} {loss}")
    if done.passed_over:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(done.passed_over.items()))
        click.echo(f"  passed over, no images: {kinds}")


def print_counts(predicted: Predicted, listed: bool = True) -> None:
    """What was done before, and the images that cannot be used (`listed`: in a file, too)."""
    if predicted.before:
        click.echo(f"  {_plural(predicted.before, 'image')} had been predicted by an earlier call")
    if predicted.known:
        click.echo(f"  {_plural(predicted.known, 'image')} had been predicted by the run: its predictions were taken")
    if predicted.quarantined:
        bad = len(predicted.quarantined)
        click.echo(f"  {_plural(bad, 'image')} cannot be used{', listed in quarantine.csv' * listed}:")
        for state in predicted.quarantined[:SHOWN]:
            click.echo(f"    {state.path}: {state.problem}")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def print_judgement(found: Judgement) -> None:
    """The table of all that were scored, and what was left out."""
    console = Console(highlight=False)
    console.print(
        f"{_plural(found.images, 'image')} of {escape(found.data)}, {_plural(found.cells, 'cell')}; the same images "
        "for all",
        soft_wrap=True,
    )
    means = ("AP50", "precision", "recall", "F1", "IoU") if console.width >= WIDE else ("F1",)
    rows = table("model", "n", "mAP", "vs first", *means)
    for each in found.standings:
        summary = each.summary
        values = {
            "AP50": each.ap50,
            "precision": summary.precision,
            "recall": summary.recall,
            "F1": summary.f1,
            "IoU": summary.mean_iou,
        }
        rows.add_row(
            escape(each.name),
            str(summary.images),
            _interval(each.map, ".3f", summary.images),
            "-" if each.difference is None else _interval(each.difference, "+.3f", summary.images),
            *(f"{values[name]:.3f}" for name in means),
        )
    console.print(rows)
    _print_classes(console, found)
    console.print(
        "mAP: mean over IoU .50 to .95 and over images (Kaggle Sartorius). AP50: at IoU .50 alone. Brackets: 95 % "
        "bootstrap intervals over images, of `vs first` paired. The rest: IoU > .5, all cells together."
    )
    for reason, number in found.left_out.items():
        console.print(f"left out: {_plural(number, 'image')} {escape(reason)}", soft_wrap=True)
    for problem in found.unusable[:SHOWN]:
        console.print(f"cannot be used: {escape(problem)}", soft_wrap=True)
    if len(found.unusable) > SHOWN:
        console.print(f"and {len(found.unusable) - SHOWN} more that cannot be used")
    for warning in found.warnings:
        console.print(f"[yellow]-[/yellow] {escape(warning)}", soft_wrap=True)


def _print_classes(console: Console, found: Judgement) -> None:
    """The mAP within each class, where there are several."""
    comparable = [each for each in found.standings if len(each.summary.class_map) > 1]
    named = list(dict.fromkeys(name for each in comparable for name in each.summary.class_map))
    if not named:
        return
    rows = table("mAP of", *map(escape, named))
    for each in comparable:
        values = (each.summary.class_map.get(name) for name in named)
        rows.add_row(escape(each.name), *("-" if value is None else f"{value:.3f}" for value in values))
    console.print(rows)


def _interval(found: Interval, style: str, images: int) -> str:
    if not enough(images):
        return f"{found.value:{style}}, {too_few(images)}"
    return f"{found.value:{style}} ({found.low:{style}}..{found.high:{style}})"


def print_submission(done: Submission, predicted: Predicted, model: str, competition: str | None) -> None:
    """What was written, that it was checked, and the line that uploads it."""
    counts = done.counts
    click.echo(f"{model}")
    print_counts(predicted, listed=False)
    for loss, count in done.written.losses.items():
        click.echo(f"  {count} {loss}")
    click.echo(
        f"{done.out}: {_plural(counts['images'], 'image')}, {_plural(counts['cells'], 'cell')}, pixels counted "
        f"{done.order} by {done.order}; checked: no pixel twice, run lengths in order, a row for every image"
    )
    words = ["kaggle", "competitions", "submit", "-c", competition or "COMPETITION", "-f", str(done.out)]
    click.echo(f"To upload it: {shlex.join([*words, '-m', model.partition(',')[0]])}")


def print_model_folder(done: ModelFolder, notes: Sequence[str]) -> None:
    """What was written, and how it is used."""
    size = sum(done.sizes.values()) / 1e6
    click.echo(f"{done.folder}: {done.title}, {_plural(len(done.sizes), 'file')}, {size:.1f} MB")
    for note in notes:
        click.echo(f"  other_programs/: {note}")
    folder = shlex.quote(str(done.folder))
    click.echo(f"Next: cellsemi predict IMAGES --model {folder} --out DIR   (the card is {folder}/README.md)")
