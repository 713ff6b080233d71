"""Defines `cellsemi app`: cells and pseudo-labels in the browser."""

from __future__ import annotations

from pathlib import Path

import click

from cellsemi.orchestrator.cli.options import debug_option


@click.command()
@click.argument("run", required=False)
@click.option(
    "--model",
    "folders",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="A folder of `cellsemi model export`, to choose from beside the models of the run. May be repeated.",
)
@click.option("--device", default="auto", show_default=True, help="`auto` (CUDA when there is one), `cpu` or `cuda`.")
@click.option("--port", type=click.IntRange(1, 65535), help="Default: the first free one from 7860 on.")
@click.option("--open/--no-open", "opens", default=True, show_default=True, help="Open it in your browser.")
@debug_option
def app(run: str | None, *, folders: tuple[Path, ...], device: str, port: int | None, opens: bool) -> None:
    """Look at cells and pseudo-labels in the browser, and mark them.

    Drop an image, move the least confidence and size of each class, and see the masks change; compare them with a
    label file; download them. Browse the pseudo-labels of a run, also one that is being made, and mark cells as right,
    wrong or to be ignored: they become human labels of the next round. Listens on this machine only, until Ctrl-C.
    RUN is a name below ./runs or a folder; default: the run worked on last, or none with --model.
    """
    from cellsemi.orchestrator.app.serve import Asked, serve
    from cellsemi.orchestrator.runs.find_run import find_run

    paths = None if run is None and folders else find_run(run)
    serve(Asked(paths, folders, device, port, opens), click.echo)
