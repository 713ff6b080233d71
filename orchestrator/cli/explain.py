"""Defines `cellsemi explain`: shows what a run made of one image, and why."""

from __future__ import annotations

from pathlib import Path

import click

from cellsemi.orchestrator.cli.options import answer, debug_option, json_option
from cellsemi.orchestrator.cli.predict import cutoff_options, model_options


@click.command()
@click.argument("image")
@model_options
@click.option(
    "--round", type=click.IntRange(min=0), help="The models, and the pseudo-labels, of this round of the run."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="The folder to write. Default: ./explained/ID."
)
@cutoff_options
@click.option("--device", default="auto", show_default=True, help="`auto` (CUDA when there is one), `cpu` or `cuda`.")
@json_option
@debug_option
def explain(
    image: str,
    *,
    run: str | None,
    folder: Path | None,
    round: int | None,
    out: Path | None,
    scores: tuple[str, ...],
    areas: tuple[str, ...],
    device: str,
    as_json: bool,
) -> None:
    """Show why the cells of an image were kept or dropped.

    IMAGE is a file, or the id of an image of the run. Writes a folder with a page (index.html), a table of all cells
    with the reason of each (cells.csv, cells.md), and pictures of what each model computed: cell probability and flow;
    proposals, boxes, activations and attention of a detector. Of an unlabelled image of the run it shows what the
    filter said, too.
    """
    from cellsemi.orchestrator.explain.of_model import FOLDER, explain_with, from_texts
    from cellsemi.orchestrator.explain.write import INDEX, summary, write_explanation

    found = explain_with(image, run, folder, from_texts(scores, areas), round=round, device=device)
    place = out or FOLDER / found.image_id
    write_explanation(found, place)
    content = {
        "image": found.image_id,
        "model": found.model,
        "out": str(place),
        "cells": len(found.rows),
        "kept": len(found.kept),
    }
    answer(as_json, content, lambda: click.echo(f"{summary(found)}\n  {place / INDEX}"))
