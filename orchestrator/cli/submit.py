"""Defines `cellsemi submit`: a Kaggle submission for unlabelled test images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from cellsemi.orchestrator.cli.options import Session, answer, debug_option, json_option
from cellsemi.orchestrator.cli.predict import cutoff_options, engine_options, opened_pool


@click.command()
@click.argument("run", required=False)
@click.option("--images", multiple=True, required=True, help="A folder, a file or a pattern. May be repeated.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The CSV file to write.")
@click.option(
    "--model",
    "folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of `cellsemi model export`, instead of a run.",
)
@click.option(
    "--order",
    type=click.Choice(["row", "column"]),
    help="How pixels are counted. Default: `column` for a run on DSB2018, else `row` (Sartorius).",
)
@cutoff_options
@click.option("--competition", help="The name of the competition, for the line that uploads.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@engine_options
@json_option
@debug_option
@click.pass_obj
def submit(
    session: Session,
    *,
    run: str | None,
    images: tuple[str, ...],
    out: Path,
    folder: Path | None,
    order: Literal["row", "column"] | None,
    scores: tuple[str, ...],
    areas: tuple[str, ...],
    competition: str | None,
    force: bool,
    engine: str | None,
    address: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Write a Kaggle submission for images, check it, and show the line that uploads it.

    RUN is a name below ./runs or a folder; default: the run worked on last. Every image has its row, no pixel stands
    in two cells, and a second program has read the file. Predictions are kept beside the file, so that the same
    command goes on after a crash. Nothing is uploaded.
    """
    from cellsemi.configs.errors import UsageError
    from cellsemi.orchestrator.apply.asked_cutoffs import parse_cutoffs
    from cellsemi.orchestrator.apply.choose_model import choose_model
    from cellsemi.orchestrator.apply.images import find_images
    from cellsemi.orchestrator.apply.predict import PREDICTIONS, predict_alone
    from cellsemi.orchestrator.apply.submit import check_ids, pixel_order, submission_name, write_submission
    from cellsemi.orchestrator.runs.find_run import find_run
    from cellsemi.orchestrator.terminal import apply_tables
    from cellsemi.rounds.store.run import read_config

    if submission_name(out).exists() and not force:
        raise UsageError(f"{out}: exists; --force overwrites it")
    chosen = choose_model(run, folder)
    recipe = chosen.model.recipe
    keep = parse_cutoffs(scores, areas, recipe.cutoffs, recipe.classes)
    found = find_images(images)
    check_ids(found)
    order = order or pixel_order(None if folder is not None else read_config(find_run(run)))
    work = out.with_suffix("").with_name(f"{out.stem}.{PREDICTIONS}")
    work.mkdir(parents=True, exist_ok=True)
    with opened_pool(session, work / apply_tables.LOG, (engine, address, device), as_json) as pool:
        predicted = predict_alone(chosen, found, work, pool)
    done = write_submission(predicted, keep, out, order, force)
    content = {
        "out": str(out),
        "order": order,
        "model": recipe.title,
        **done.counts,
        "losses": dict(done.written.losses),
        "quarantined": [state.model_dump() for state in predicted.quarantined],
    }
    sentence = f"{recipe.title}, {keep.sentence(recipe.classes)}"
    answer(as_json, content, lambda: apply_tables.print_submission(done, predicted, sentence, competition))
