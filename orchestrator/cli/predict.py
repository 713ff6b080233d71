"""Defines `cellsemi predict`: applies what a run made to images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cellsemi.configs.formats import WRITABLE
from cellsemi.orchestrator.cli.options import Command, Session, answer, debug_option, json_option

if TYPE_CHECKING:
    from cellsemi.orchestrator.apply.predict_files import Pool


def model_options(command: Command) -> Command:
    """--run and --model."""
    command = click.option("--run", help="The run whose model is used. Default: the run worked on last.")(command)
    return click.option(
        "--model",
        "folder",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="A folder of `cellsemi model export`, instead of a run.",
    )(command)


def engine_options(command: Command) -> Command:
    """--engine, --address and --device."""
    command = click.option(
        "--engine",
        type=click.Choice(["ray", "inline"]),
        help="`inline`: in this process; `ray`: on all CPUs or GPUs. Default: inline, or ray with --address.",
    )(command)
    command = click.option("--address", help="Ray cluster to use; every node must see the images and the output.")(
        command
    )
    return click.option(
        "--device", default="auto", show_default=True, help="`auto` (CUDA when there is one), `cpu` or `cuda`."
    )(command)


def cutoff_options(command: Command) -> Command:
    """--min-score and --min-area."""
    command = click.option(
        "--min-area",
        "areas",
        metavar="[CLASS=]PIXELS",
        multiple=True,
        help="Leave out smaller cells; may be repeated. Default: what was chosen on validation images.",
    )(command)
    return click.option(
        "--min-score",
        "scores",
        metavar="[CLASS=]SCORE",
        multiple=True,
        help="Leave out cells with a lower score; may be repeated. Default: what was chosen on validation images.",
    )(command)


@contextlib.contextmanager
def opened_pool(
    session: Session, log: Path, options: tuple[str | None, str | None, str], silent: bool
) -> Iterator[Pool]:
    """What the engine options (--engine, --address, --device) ask for; what libraries print goes to `log`."""
    from cellsemi.configs.schema import EngineConfig
    from cellsemi.orchestrator.apply.predict_files import Pool
    from cellsemi.orchestrator.engine.open import open_engine
    from cellsemi.orchestrator.terminal.quiet import quiet_output
    from cellsemi.orchestrator.terminal.watchers import open_watcher

    session.log = log
    engine, address, device = options
    config = EngineConfig(kind="ray" if address or engine == "ray" else "inline", address=address)
    with (
        quiet_output(log) as stream,
        open_engine(config, log) as opened_engine,
        open_watcher(stream, silent) as watcher,
    ):
        yield Pool(opened_engine, watcher, device)


@click.command()
@click.argument("images", nargs=-1, required=True)
@model_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="The folder to write.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(WRITABLE),
    multiple=True,
    help="What to write; may be repeated. Default: label-maps, measurements, overlays.",
)
@cutoff_options
@engine_options
@json_option
@debug_option
@click.pass_obj
def predict(
    session: Session,
    *,
    images: tuple[str, ...],
    run: str | None,
    folder: Path | None,
    out: Path,
    formats: tuple[str, ...],
    scores: tuple[str, ...],
    areas: tuple[str, ...],
    engine: str | None,
    address: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Find the cells of images with the model that a run recommends.

    IMAGES are files, folders (with their sub-folders) and patterns; a name with brackets is first taken as it is.
    The model predicts with everything that was chosen for it. Called again, the same command predicts only images
    that are new or changed. Images that cannot be read are listed in quarantine.csv, and the others are done.
    """
    from cellsemi.orchestrator.apply.asked_cutoffs import parse_cutoffs
    from cellsemi.orchestrator.apply.choose_model import choose_model
    from cellsemi.orchestrator.apply.images import find_images
    from cellsemi.orchestrator.apply.predict import DEFAULT_FORMATS, Wanted, apply
    from cellsemi.orchestrator.terminal import apply_tables

    chosen = choose_model(run, folder)
    recipe = chosen.model.recipe
    keep = parse_cutoffs(scores, areas, recipe.cutoffs, recipe.classes)
    found = find_images(images)
    with opened_pool(session, out / apply_tables.LOG, (engine, address, device), as_json) as pool:
        done = apply(chosen, found, Wanted(out, keep, formats or DEFAULT_FORMATS), pool)
    answer(as_json, done.to_json(), lambda: apply_tables.print_application(done))
