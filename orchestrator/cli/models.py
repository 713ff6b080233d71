"""Implements `cellsemi models` and `cellsemi weights`: lists the models, and registers files of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cellsemi.configs.errors import ModelError, UsageError
from cellsemi.orchestrator.cli.options import answer, debug_option, json_option
from cellsemi.rounds.store import files

if TYPE_CHECKING:
    from cellsemi.models.weight_files import VerifiedWeights
    from cellsemi.orchestrator.doctor import Package

sha256_option = click.option("--sha256", metavar="HEX", help="What the file's sha256 must be, in hex.")
FILE = click.Path(path_type=Path)
SHA256_DIGITS = 64


# --- models -------------------------------------------------------------------------------------------


@click.command()
@json_option
@debug_option
def models(as_json: bool) -> None:
    """List the models: size, needs, licences.

    Each is an entry of `models` in a config. Where packages are missing, the line that installs them is shown.
    """
    content = models_json()
    answer(as_json, content, lambda: print_models(content))


def models_json() -> list[dict[str, object]]:
    """A row for each model in plain values, with `missing`: {package: the line that installs it}."""
    from cellsemi.models.registry import families
    from cellsemi.orchestrator.doctor import packages

    here = {package.name: package for package in packages()}
    return [
        {
            "name": variant.name,
            "kind": family.kind,
            "parameters": variant.parameters,
            "start": family.start,
            "packages": family.packages,
            "code_licence": family.code_licence,
            "weights_licence": family.weights_licence,
            "settings": dict(variant.settings),
            "missing": _missing(family.packages, here),
        }
        for family in families()
        for variant in family.variants
    ]


def _missing(wanted: tuple[str, ...], here: dict[str, Package]) -> dict[str, str]:
    """The packages of a model that are not installed in a suitable version, with the lines that install them."""
    from cellsemi.orchestrator.doctor import installed

    missing = {name: here[name].remedy for name in wanted if name in here and not here[name].fine}
    unknown = [name for name in wanted if name not in here and installed(name) is None]
    return missing | {name: f"pip install {name}" for name in unknown}


def print_models(content: Sequence[Mapping[str, Any]]) -> None:
    """The table, the lines that install what is missing, and the licences by family."""
    from rich.console import Console
    from rich.markup import escape

    from cellsemi.orchestrator.terminal.tables import table

    console = Console(highlight=False)
    rows = table("model", "size", "starts from", "needs", "")
    rows.columns[1].justify = "right"
    for model in content:
        needs = ", ".join(name for name in model["packages"] if name != "torch") or "torch"
        state = "[yellow]missing[/yellow]" if model["missing"] else "[green]ok[/green]"
        rows.add_row(model["name"], f"{model['parameters'] / 1e6:.1f} M", model["start"], needs, state)
    console.print(rows)
    for name, line in {name: line for model in content for name, line in model["missing"].items()}.items():
        console.print(f"{name}: {escape(line)}", soft_wrap=True)
    console.print("Size: parameters for one class. Starts from either: from scratch, or from weights that you have.")
    console.print("Licences of the code and of known weights:")
    for kind, model in {model["kind"]: model for model in content}.items():
        console.print(
            f"  [bold]{kind}[/bold]: {escape(model['code_licence'])}; weights: {escape(model['weights_licence'])}"
        )


# --- weights ------------------------------------------------------------------------------------------


@click.group()
def weights() -> None:
    """Find, register, verify and export files of weights.

    A registered name can stand for a file in a config (`weights: NAME`). Nothing is downloaded.
    """


@weights.command()
@click.argument("file", type=FILE)
@click.option("--name", required=True, help="The name that stands for the file.")
@sha256_option
@click.option("--licence", default="", help="A note on the licence, for yourself.")
@click.option("--force", is_flag=True, help="Give a name that is taken to this file.")
@debug_option
def add(file: Path, name: str, sha256: str | None, licence: str, force: bool) -> None:
    """Give a file of weights, or a folder of `cellsemi model export`, a name on this machine.

    The file is opened without running anything in it, and what it holds is said. Path and sha256 are kept, the file
    stays where it is, and is verified whenever it is used.
    """
    from cellsemi.models import weight_files
    from cellsemi.models.registry import recognised
    from cellsemi.models.start_weights import find_given

    given = find_given(str(weight_files.absolute(str(file))), sha256)
    tensors = given.tensors()
    entry = weight_files.add(given.file, name, sha256=sha256, licence=licence, replaces=force)
    numbers = sum(value.numel() for value in tensors.values())
    click.echo(f"{name} is {entry.path} ({_size(entry.bytes)}): {len(tensors)} tensors of {numbers:,} numbers.")
    found = recognised({key: tuple(value.shape) for key, value in tensors.items()})
    lines = _config_lines(name, entry.sha256)
    if not found:
        click.echo(f"No model here starts from such tensors (`cellsemi models`).\n{lines}")
    for kind, seen in found.items():
        classes = "" if seen.classes is None else f", {seen.classes} class{'es' if seen.classes > 1 else ''}"
        classes += "" if given.about is None else f" ({', '.join(given.about.classes)})"
        click.echo(f"It is {seen.what}{classes}. In a config:\n    kind: {kind}\n{lines}")
        for key, value in seen.settings.items():
            click.echo(f"    {key}: {json.dumps(value)}")


@weights.command()
@json_option
@debug_option
def sources(as_json: bool) -> None:
    """Show where others publish weights, and the line that fetches each.

    cellsemi fetches nothing: run a line where there is a network, then `cellsemi weights add`.
    """
    from cellsemi.models.weight_sources import SOURCES

    content = [{**asdict(source), "fetch": source.fetch} for source in SOURCES]
    answer(as_json, content, lambda: _print_sources(content))


def _print_sources(content: Sequence[Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    for source in content:
        size = "size not stated" if source["megabytes"] is None else f"{source['megabytes']:g} MB"
        beginning = source["sha256"] and ("sha256" if len(source["sha256"]) == SHA256_DIGITS else "sha256 begins with")
        checksum = f"{beginning} {source['sha256']}" if beginning else "no sha256 stated"
        fits = f"kind: {source['kind']}" + (f", {source['settings']}" if source["settings"] else "")
        console.print(f"[bold]{escape(source['file'])}[/bold]  {escape(source['what'])}", soft_wrap=True)
        console.print(f"  {size}, {checksum}" + (f" ({source['note']})" if source["note"] else ""), soft_wrap=True)
        console.print(f"  licence: {escape(source['licence'])}", soft_wrap=True)
        console.print(f"  fits {fits}" if source["kind"] else "  fits no model here", soft_wrap=True)
        console.print(f"  {escape(source['fetch'])}", soft_wrap=True)
    console.print("Nothing is fetched here. `cellsemi weights add FILE --name NAME` registers a file that you have.")


@weights.command("list")
@json_option
@debug_option
def list_weights(as_json: bool) -> None:
    """List the registered files."""
    from cellsemi.models.weight_files import registered, registry_path

    entries = [asdict(entry) for entry in registered().values()]

    def show() -> None:
        for entry in entries:
            note = f"  {entry['licence']}" if entry["licence"] else ""
            click.echo(f"{entry['name']}  {_size(entry['bytes'])}  sha256 {entry['sha256']}{note}\n  {entry['path']}")
        if not entries:
            click.echo(f"No weights in {registry_path()}; `cellsemi weights add FILE --name NAME` registers some.")

    answer(as_json, entries, show)


@weights.command()
@click.argument("name", metavar="[NAME|FILE]", required=False)
@sha256_option
@debug_option
@click.pass_context
def verify(context: click.Context, name: str | None, sha256: str | None) -> None:
    """Compare a file with its sha256; without a name, all that are registered.

    Exit code 1 when one is missing or is another.
    """
    from cellsemi.models import weight_files

    if name is not None:
        click.echo(_verdict(name, weight_files.verify(name, sha256)))
        return
    if sha256 is not None:
        raise UsageError("--sha256 is of one file: name it")
    broken = 0
    for known in weight_files.registered():
        try:
            click.echo(_verdict(known, weight_files.verify(known)))
        except ModelError as error:
            click.echo(f"Error: {error}", err=True)
            broken += 1
    if broken:
        context.exit(1)


@weights.command()
@click.argument("trained", metavar="RUN/MODEL|FOLDER")
@click.option("--out", type=FILE, required=True, help="The file to write.")
@click.option("--format", "format_", metavar="NAME", help="Its format; needed where the family has several.")
@click.option("--author", "authors", multiple=True, help="bioimage-io: who made the model; may be repeated.")
@click.option("--licence", help="bioimage-io: SPDX identifier, instead of the run's data.licence.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
@debug_option
def export(
    trained: str, out: Path, format_: str | None, authors: tuple[str, ...], licence: str | None, force: bool
) -> None:
    """Write a trained model as other programs open it.

    Formats: cellpose, detectron2, torchscript, bioimage-io; each family has its own. Of a run, the model of its last
    round is taken: `demo/cellpose`, or name the folder that holds it.
    """
    from cellsemi.orchestrator.runs.export_model import export_model

    folder = find_trained(trained)
    if out.exists() and not force:
        raise UsageError(f"{out}: there already; --force overwrites it")
    opens, *notes = export_model(folder, out, format_, authors=authors, licence=licence)
    click.echo(f"{out} written from {folder}. {opens}")
    for note in notes:
        click.echo(note)


def find_trained(name: str) -> Path:
    """The folder of a trained model: the path itself, or RUN/MODEL of the last round that has it.

    UsageError, naming what there is, when there is none.
    """
    from cellsemi.models.model_files import MODEL_FILE
    from cellsemi.orchestrator.runs.find_run import find_run

    if (files.place(name) / MODEL_FILE).is_file():
        return files.place(name)
    run, _, model = name.rstrip("/").rpartition("/")
    if not run:
        raise UsageError(f"{name}: holds no trained model; name a folder with {MODEL_FILE}, or RUN/MODEL")
    paths = find_run(run)
    found = sorted(paths.root.glob(f"round-*/students/*/{MODEL_FILE}"))
    folders = [path.parent for path in found if path.parent.name == model]
    if not folders:
        names = ", ".join(sorted({path.parent.name for path in found})) or "none"
        raise UsageError(f"{paths.root}: has no trained model {model!r}; there are: {names}")
    return folders[-1]


def _verdict(name: str, found: VerifiedWeights) -> str:
    if found.compared:
        return f"{name}: ok, {found.path} ({_size(found.bytes)}), sha256 {found.sha256}"
    lines = _config_lines(name, found.sha256)
    return f"{name}: {_size(found.bytes)}, nothing to compare it with (--sha256 HEX). In a config:\n{lines}"


def _config_lines(name: str, sha256: str) -> str:
    return f"    weights: {name}\n    weights_sha256: {sha256}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
