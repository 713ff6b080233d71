"""Defines `cellsemi data`: inspect a data set, import it, export cells, list label issues, check files, name versions.

What is heavy is imported inside the commands, so that `cellsemi --help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from cellsemi.configs.errors import UsageError
from cellsemi.configs.formats import WRITABLE
from cellsemi.orchestrator.cli.options import AnyPlace, Command, answer, debug_option, json_option

if TYPE_CHECKING:
    from cellsemi.rounds.cells.instances import State

STATES = ("human", "accepted", "predicted", "ignored")
SPLITS = ("labelled", "unlabelled", "val", "test")
anything = AnyPlace(path_type=Path, exists=True)


def source_options(command: Command) -> Command:
    """--config and --set, for commands that recognise a data set by themselves."""
    command = click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        help="Change one setting, e.g. --set data.mask_suffix=_x. May be repeated.",
    )(command)
    return click.option(
        "--config",
        "source",
        metavar="PATH|PRESET",
        help="A YAML file or a preset that says what the data is; PATH is its data.root. Default: recognised.",
    )(command)


def metadata_options(command: Command) -> Command:
    """--metadata, and what only a person can say of a data set."""
    options = (
        click.option("--metadata", is_flag=True, help="Of a run: write Croissant and RO-Crate beside the export."),
        click.option("--licence", help="Metadata: SPDX identifier of the images and labels, instead of data.licence."),
        click.option("--creator", "creators", multiple=True, help="Metadata: who made it. May be repeated."),
        click.option("--url", help="Metadata: where it will be found, such as a reserved DOI."),
        click.option(
            "--published",
            type=click.DateTime(["%Y-%m-%d"]),
            callback=lambda _context, _option, day: day and day.date().isoformat(),
            metavar="YYYY-MM-DD",
            help="Metadata: the day of publication. Default: the day on which the run began.",
        ),
        click.option("--description", help="Metadata: what it is. Default: a sentence about the run."),
        click.option("--dataset-version", "version", metavar="X.Y.Z", help="Metadata: of the data set. Default: none."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def data() -> None:
    """Inspect a data set, import it, export results, list label issues, check files, name versions."""


@data.command("inspect")
@click.argument("path", type=anything, required=False)
@source_options
@click.option("--limit", type=click.IntRange(min=1), help="Read only this many images, spread over the data set.")
@click.option("--out", type=click.Path(path_type=Path), help="The picture. Default: inspect-NAME.png.")
@click.option("--no-picture", is_flag=True, help="Draw none.")
@json_option
@debug_option
def inspect_command(
    path: Path | None,
    source: str | None,
    settings: tuple[str, ...],
    limit: int | None,
    out: Path | None,
    no_picture: bool,
    as_json: bool,
) -> None:
    """Say what a data set is and what is in it.

    PATH is a folder, or the file that lists it; default: what the config names. Writes a picture of a few
    images with their cells, and prints the data section to paste into cellsemi.yaml. Of a folder of a run's own shards
    (RUN/round-01/pseudo) it counts the states, reasons and scores of the cells.
    """

    from cellsemi.orchestrator import describe_dataset
    from cellsemi.orchestrator.runs.describe_shards import look_at_shards, print_shards
    from cellsemi.orchestrator.terminal import data_tables
    from cellsemi.rounds.inspect.shard_figures import is_loose

    if path is not None and is_loose(path):
        picture = None if no_picture else data_tables.picture_path(out, path)
        with data_tables.counting(as_json) as count:
            shards = look_at_shards(path, picture, count)
        answer(as_json, shards.to_json(), lambda: print_shards(shards))
        return
    described = describe_dataset.describe(path, source, settings)
    picture = None if no_picture else data_tables.picture_path(out, path or described.config.data.root)
    with data_tables.counting(as_json) as count:
        look = describe_dataset.look(described, limit, picture, count)
    options = data_tables.repeated(source, settings)
    answer(as_json, look.to_json(), lambda: data_tables.print_look(look, path, options))


@data.command("import")
@click.argument("path", type=anything, required=False)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new folder of image shards.")
@source_options
@click.option("--force", is_flag=True, help="Make a finished import in --out anew.")
@json_option
@debug_option
def import_command(
    path: Path | None, out: Path, source: str | None, settings: tuple[str, ...], force: bool, as_json: bool
) -> None:
    """Read a data set once, check it, and write it as image shards.

    PATH is a folder, or the file that lists it; default: what the config names. Images that cannot be used
    are put aside and counted. `data.source: shards` then reads the folder.
    """

    from cellsemi.orchestrator import describe_dataset
    from cellsemi.orchestrator.terminal import data_tables
    from cellsemi.rounds.datasets.import_shards import import_data, without_times

    described = describe_dataset.describe(path, source, settings)
    with data_tables.counting(as_json) as count:
        config = describe_dataset.with_classes(described, count)
        report = import_data(config, out, lambda split, done, of: count(f"read {split} images", done, of), force)
    content = {
        "folder": str(out),
        "classes": list(config.data.classes),
        "seconds": report.seconds,
        **without_times(report),
    }
    answer(as_json, content, lambda: data_tables.print_import(report, config.data, described.detected, out))


@data.command("export")
@click.argument("what", metavar="RUN|SHARDS")
@click.option("--format", "kind", type=click.Choice(WRITABLE), required=True, help="What to write.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The new file, or folder. A file gets the suffix of its format.",
)
@click.option("--split", type=click.Choice(SPLITS), help="Of a run: default test. Of an import: all with cells.")
@click.option("--model", help="Of a run. Default: the ensemble.")
@click.option("--round", "number", type=click.IntRange(min=0), help="Of a run. Default: the last one promoted.")
@click.option("--min-score", type=click.FloatRange(0, 1), help="Of a run, default: the cutoffs chosen on val.")
@click.option("--state", "states", type=click.Choice(STATES), multiple=True, help="Only such cells. May be repeated.")
@click.option("--pseudo", is_flag=True, help="Of a run: the filtered pseudo-labels of a round.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@metadata_options
@json_option
@debug_option
def export_command(
    what: str,
    kind: str,
    out: Path,
    split: str | None,
    model: str | None,
    number: int | None,
    min_score: float | None,
    states: tuple[State, ...],
    pseudo: bool,
    force: bool,
    metadata: bool,
    as_json: bool,
    **stated: Any,
) -> None:
    """Write cells for other programs.

    RUN is a name below ./runs or a folder: what its best models predict, or (--split labelled) what people drew.
    SHARDS is a folder of `cellsemi data import`, or any with part-*.parquet. Rejected cells are never written.

    With --metadata OUT is a new folder, for every format. Beside the export it gets croissant.json (Croissant 1.1) and
    ro-crate-metadata.json (RO-Crate 1.1, with the fields of MIFA).
    """

    from cellsemi.orchestrator.metadata.export_described import export_described
    from cellsemi.orchestrator.runs.export import ExportRequest, choose
    from cellsemi.orchestrator.terminal import data_tables
    from cellsemi.rounds.datasets.export import export, named
    from cellsemi.rounds.report.dataset_facts import Stated

    choice = choose(what, ExportRequest(split, model, number, min_score, states, pseudo))
    if metadata:
        done = export_described(choice, kind, out, Stated(**stated))
    elif any(stated.values()):
        raise UsageError("--licence, --creator, --url and the like are for --metadata; without it nothing states them")
    else:
        out = named(kind, out)
        done = export(choice.source, choice.cells, kind, out, force)
    content: dict[str, object] = {
        "out": str(out),
        "format": kind,
        "what": choice.sentence,
        "images": done.images,
        "cells": done.cells,
        "files": done.files,
        "losses": dict(done.losses),
    }
    answer(as_json, content, lambda: data_tables.print_export(done, choice.sentence, kind, out))


@data.command("label-issues")
@click.argument("run", metavar="RUN")
@click.option(
    "--split", type=click.Choice(["val", "test", "labelled"]), default="val", help="Whose labels. Default: val."
)
@click.option("--out", type=click.Path(path_type=Path), help="The new folder. Default: label-issues-RUN.")
@json_option
@debug_option
def label_issues_command(run: str, split: str, out: Path | None, as_json: bool) -> None:
    """List human labels that the promoted models contradict.

    RUN is a name below ./runs or a folder. Labels are judged only where no model trained on them: val and test,
    not labelled. What the labels of test show must not choose anything. Writes a table and pictures, the
    surest first; nothing is changed or left out. Another run with `data.label_issues` set to the table ignores the
    cells that are still in it; it takes none of test.
    """

    from cellsemi.orchestrator.runs import label_issues
    from cellsemi.orchestrator.terminal import data_tables

    with data_tables.counting(as_json) as count:
        found = label_issues.search(run, split, out, count)
    answer(as_json, found.to_json(), lambda: label_issues.print_search(found))


@data.command("check")
@click.argument("path", type=anything)
@click.option(
    "--order", type=click.Choice(["row", "column"]), default="row", help="Pixel order of a submission. Default: row."
)
@json_option
@debug_option
@click.pass_context
def check_command(context: click.Context, path: Path, order: Literal["row", "column"], as_json: bool) -> None:
    """Check image shards, a COCO file or a submission.

    PATH is the folder of an import or a run, any folder with part-*.parquet, a .json or a .csv. Exit code 1
    when something is wrong.
    """

    from cellsemi.orchestrator.terminal import data_tables
    from cellsemi.rounds.datasets.check_files import check_path

    with data_tables.counting(as_json) as count:
        checked = check_path(path, order, lambda done: count("check images", done, None))
    answer(as_json, checked.to_json(), lambda: data_tables.print_checked(checked, path))
    context.exit(1 if checked.problems else 0)


@data.command("version")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--run", metavar="RUN", help="The data of a run. Its list is kept in the run's folder.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the list of hashes, as sha256sum does.")
@click.option("--compare", type=click.Path(path_type=Path), help="Say what differs from such a list.")
@json_option
@debug_option
@click.pass_context
def version_command(
    context: click.Context,
    folder: Path | None,
    run: str | None,
    out: Path | None,
    compare: Path | None,
    as_json: bool,
) -> None:
    """Say which version a data set is: one hash of all its files.

    FOLDER is the data set. With --run it is the run's data.root: the first call keeps the list of hashes in the run's
    folder, later ones say what has changed since. Exit code 1 when something has.
    """

    from cellsemi.orchestrator.runs.find_run import find_run
    from cellsemi.orchestrator.terminal import data_tables
    from cellsemi.rounds.inspect.data_version import data_version, read_listing
    from cellsemi.rounds.store import files
    from cellsemi.rounds.store.run import read_config

    if (folder is None) == (run is None):
        raise UsageError("name a folder, or a run with --run, and not both")
    if run is not None:
        paths = find_run(run)
        root = read_config(paths).data.root
        if root is None:
            raise UsageError(f"run {run}: its images are generated, there is no folder of data")
        folder, kept = files.place(root), paths.data_version
        out, compare = (out, compare or kept) if kept.is_file() else (out or kept, compare)
    assert folder is not None, "one of the two is stated"
    with data_tables.counting(as_json) as count:
        found = data_version(folder, lambda done, of: count("hash files", done, of))
    changes = [] if compare is None else found.changes_since(read_listing(compare))
    if out is not None:
        files.write_text(out, found.listing)
    content = {"folder": str(folder), "version": found.version, "files": len(found.hashes), "bytes": found.size_bytes}
    answer(as_json, {**content, "changes": changes}, lambda: data_tables.print_version(folder, found, changes))
    context.exit(1 if changes else 0)
