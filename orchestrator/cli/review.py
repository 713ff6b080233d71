"""Defines `cellsemi review`: hands images to a person for correction and takes them back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from cellsemi.configs.errors import UsageError
from cellsemi.configs.formats import EDITABLE
from cellsemi.orchestrator.cli.options import answer, debug_option, json_option

if TYPE_CHECKING:
    from cellsemi.configs.schema import Config
    from cellsemi.rounds.store.run import RunPaths

folder = click.Path(path_type=Path)


@click.command()
@click.argument("run", required=False)
@click.option("--top", type=click.IntRange(min=1), help="How many images to hand out. Default: 20.")
@click.option("--out", type=folder, help="The new folder. Default: review-RUN.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(EDITABLE),
    help="Format of your tool. Default: seg-npy (Cellpose); QuPath geojson, ImageJ imagej-rois, CVAT coco.",
)
@click.option(
    "--take", "back", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Take a folder back."
)
@click.option(
    "--as",
    "use",
    type=click.Choice(["whole", "part"]),
    help="With --take: what teaches of an image that was changed and not marked. Default: whole.",
)
@json_option
@debug_option
def review(
    run: str | None,
    *,
    top: int | None,
    out: Path | None,
    kind: str | None,
    back: Path | None,
    use: Literal["whole", "part"] | None,
    as_json: bool,
) -> None:
    """Let a person correct what is worth most.

    Writes the unlabelled images whose labels are most likely wrong or missing, with their masks, for the tool that
    you work with. After you have corrected some, --take DIR makes them human labels: they teach from the next round
    on, and what was done before stays as it was measured. RUN is a name below ./runs or a folder; default: the run
    worked on last.
    """
    from cellsemi.orchestrator.runs.find_run import find_run
    from cellsemi.rounds.store.run import read_config

    paths = find_run(run)
    config = read_config(paths)
    if back is None:
        if use is not None:
            raise UsageError("--as goes with --take DIR")
        wanted = (top or 20, kind or EDITABLE[0], out or Path(f"review-{paths.name}"))
        _hand_out(paths, config, wanted, as_json)
        return
    if top is not None or out is not None or kind is not None:
        raise UsageError("--take reads a folder that was handed out: it takes no --top, --out or --format")
    _take_back(paths, config, back, use or "whole", as_json)


def _hand_out(paths: RunPaths, config: Config, wanted: tuple[int, str, Path], as_json: bool) -> None:
    from cellsemi.orchestrator.review.offer import Wanted, offer
    from cellsemi.orchestrator.terminal import data_tables, review_tables

    with data_tables.counting(as_json) as count:
        found = offer(paths, config, Wanted(*wanted), count)
    answer(as_json, found.to_json(), lambda: review_tables.print_offer(found))


def _take_back(paths: RunPaths, config: Config, back: Path, use: Literal["whole", "part"], as_json: bool) -> None:
    from cellsemi.orchestrator.review.take import take
    from cellsemi.orchestrator.terminal import review_tables
    from cellsemi.rounds.store.lock import driver_lock

    with driver_lock(paths):
        taken = take(paths, config, back, use)
    answer(as_json, taken.to_json(), lambda: review_tables.print_taken(taken))
