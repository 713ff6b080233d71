"""Defines `cellsemi model`: hands on what a run made."""

from __future__ import annotations

from pathlib import Path

import click

from cellsemi.orchestrator.cli.options import answer, debug_option, json_option


@click.group()
def model() -> None:
    """Hand on what a run made."""


@model.command("export")
@click.argument("run", required=False)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new folder.")
@click.option("--round", "number", type=click.IntRange(min=0), help="A round, instead of what the run recommends.")
@click.option("--name", help="`ensemble`, `control`, or one model of the round. Default: what the run recommends.")
@click.option("--author", "authors", multiple=True, help="Who made it, for the BioImage.IO package; may be repeated.")
@click.option("--licence", help="SPDX identifier of the licence of the images and labels, instead of data.licence.")
@json_option
@debug_option
def export_command(
    run: str | None,
    out: Path,
    number: int | None,
    name: str | None,
    authors: tuple[str, ...],
    licence: str | None,
    as_json: bool,
) -> None:
    """Write a model into a folder that stands alone.

    RUN is a name below ./runs or a folder; default: the run worked on last. The folder holds the weights of all
    members, everything that was chosen for them, a model card and checksums. `cellsemi predict --model FOLDER` and
    `cellsemi.load_model` use it without the run. Of a flow U-Net it also holds a BioImage.IO package and TorchScript.
    """
    from cellsemi.orchestrator.apply.choose_model import ensemble_of, of_run
    from cellsemi.orchestrator.apply.exchange_files import write_exchange_files
    from cellsemi.orchestrator.apply.model_folder import write_model_folder
    from cellsemi.orchestrator.runs.find_run import find_run
    from cellsemi.orchestrator.runs.model_card import model_card
    from cellsemi.orchestrator.terminal import apply_tables

    paths = find_run(run)
    ensemble = ensemble_of(paths, number, name)
    chosen = of_run(paths, number, name)
    notes: list[str] = []

    def extra(folder: Path) -> None:
        notes.extend(write_exchange_files(chosen.model, folder, authors, licence))

    card = model_card(paths, ensemble, f"cellsemi {paths.name}", licence)
    done = write_model_folder(chosen, card, out, extra)
    content = {"out": str(out), "model": done.title, "files": done.sizes, "notes": notes}
    answer(as_json, content, lambda: apply_tables.print_model_folder(done, notes))
