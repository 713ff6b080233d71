"""Defines `cellsemi evaluate`: scores models and masks of other tools on a labelled data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cellsemi.orchestrator.cli.data import SPLITS, anything, source_options
from cellsemi.orchestrator.cli.options import answer, debug_option, json_option
from cellsemi.orchestrator.cli.predict import cutoff_options

if TYPE_CHECKING:
    from cellsemi.configs.data import DataConfig
    from cellsemi.orchestrator.apply.evaluate import Contestant


@click.command()
@click.argument("data", type=anything)
@click.option("--run", "runs", multiple=True, help="A run: what it recommends is scored. May be repeated.")
@click.option(
    "--model",
    "folders",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="A folder of `cellsemi model export`. May be repeated.",
)
@click.option(
    "--masks",
    metavar="[NAME=]PATH",
    multiple=True,
    help="Masks that another tool wrote, a folder or a file of any format that is read. May be repeated.",
)
@click.option("--split", type=click.Choice(SPLITS), help="Only images of this split. Default: all that are annotated.")
@cutoff_options
@click.option("--include-seen", is_flag=True, help="Score images that a model was trained or chosen on, too.")
@click.option("--device", default="auto", show_default=True, help="`auto`, `cpu` or `cuda`.")
@source_options
@json_option
@debug_option
def evaluate(
    data: Path,
    *,
    runs: tuple[str, ...],
    folders: tuple[Path, ...],
    masks: tuple[str, ...],
    split: str | None,
    scores: tuple[str, ...],
    areas: tuple[str, ...],
    include_seen: bool,
    device: str,
    source: str | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Score a model, or masks of any tool, on labelled images.

    DATA is a labelled data set of any format that `cellsemi data inspect` recognises. Without --run, --model and
    --masks the run worked on last is scored. All are scored on the same images, and each is compared with the first,
    image by image. Images that a model was trained or chosen on are left out and counted.
    """
    from cellsemi.orchestrator import describe_dataset
    from cellsemi.orchestrator.apply.evaluate import judge
    from cellsemi.orchestrator.terminal import apply_tables, data_tables

    described = describe_dataset.describe(data, source, settings)

    def contestants(ids: Sequence[str]) -> list[Contestant]:
        return list(_contestants(ids, runs, folders, masks, (scores, areas), device))

    with data_tables.counting(as_json) as count:
        config = describe_dataset.with_classes(described, count)
        found = judge(str(data), config.data, contestants, split=split, include_seen=include_seen, count=count)
    answer(as_json, found.to_json(), lambda: apply_tables.print_judgement(found))


def _contestants(
    ids: Sequence[str],
    runs: Sequence[str],
    folders: Sequence[Path],
    masks: Sequence[str],
    kept: tuple[Sequence[str], Sequence[str]],
    device: str,
) -> Iterator[Contestant]:
    """Who is scored, under names that differ; UsageError when two have the same."""
    from cellsemi.configs.errors import UsageError
    from cellsemi.orchestrator.apply.choose_model import choose_model
    from cellsemi.orchestrator.apply.evaluate import mask_contestant, of_model

    taken: set[str] = set()

    def own(name: str) -> str:
        if name in taken:
            raise UsageError(f"two are called {name}; --masks NAME=PATH gives a name")
        taken.add(name)
        return name

    last: Sequence[str | None] = [] if folders or masks else [None]
    for run in runs or last:
        chosen = choose_model(run, None)
        yield of_model(chosen, own(chosen.model.recipe.run), *kept, device)
    for folder in folders:
        yield of_model(choose_model(None, folder), own(folder.resolve().name), *kept, device)
    for text in masks:
        name, separator, path = text.partition("=")
        place = Path(path if separator else text)
        if not place.exists():
            raise UsageError(f"--masks {text}: no such file or folder")
        yield mask_contestant(own(name if separator else place.resolve().name), place, ids, _recognised)


def _recognised(path: Path) -> DataConfig:
    """The data section of a data set that holds masks, its classes as they are named there."""
    from cellsemi.orchestrator import describe_dataset

    return describe_dataset.describe(path, None, ()).config.data
