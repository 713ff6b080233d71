"""Defines `cellsemi init`: a config file from a folder of images, or from a preset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cellsemi.configs.errors import ConfigError, UsageError
from cellsemi.configs.formats import READABLE, entry_of
from cellsemi.configs.presets.preset_files import DEFAULT_PRESET, LOCAL_FILE, preset_names, preset_text
from cellsemi.orchestrator.cli.options import debug_option

if TYPE_CHECKING:
    from cellsemi.configs.schema import Config


@click.command()
@click.argument("what", metavar="[FOLDER|FILE|PRESET]", default=DEFAULT_PRESET)
@click.option("--out", type=click.Path(path_type=Path), default=LOCAL_FILE, help=f"Default: {LOCAL_FILE}.")
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change one setting. May be repeated.")
@click.option(
    "--full", is_flag=True, help="Write every setting, explained, and not only what differs from the defaults."
)
@click.option("--force", is_flag=True, help="Overwrite the file.")
@debug_option
def init(what: str, out: Path, settings: tuple[str, ...], full: bool, force: bool) -> None:
    """Write a short config file: what differs from the defaults, each line with its reason.

    A FOLDER of images, or the FILE that lists them, is recognised as by `cellsemi data inspect`. A PRESET is written
    as it is (default: demo). A word that is the name of a preset means the preset: ./NAME is the folder of that name.
    """
    from cellsemi.configs.describe import documented_yaml
    from cellsemi.orchestrator.terminal.data_tables import counting, print_init
    from cellsemi.rounds.store.files import write_text

    if out.exists() and not force:
        raise UsageError(f"{out}: there already; --force overwrites it, --out FILE writes another")
    if what in preset_names():
        config, short = _of_preset(what, settings)
        look = None
    else:
        from cellsemi.orchestrator.describe_dataset import describe, look_briefly

        with counting(silent=False) as count:
            look = look_briefly(describe(_existing(what), None, settings), count)
        config, short = look.suggested.config, look.suggested.text
    write_text(out, documented_yaml(config) if full else short)
    print_init(look, out)


def _of_preset(name: str, settings: tuple[str, ...]) -> tuple[Config, str]:
    """The config of a preset, and its short file."""
    from cellsemi.configs.loading import load_config
    from cellsemi.configs.short_yaml import comments_of, short_yaml

    try:
        config = load_config(name, settings).config
    except ConfigError as error:
        raise ConfigError(f"{error}{_mistaken(name)}") from None
    header, reasons = comments_of(preset_text(name))
    if config.data.source in READABLE:
        reasons.setdefault("data.source", entry_of(config.data.source).layout)
    return config, short_yaml(config, reasons, header)


def _mistaken(name: str) -> str:
    """What to say where a folder has the name of a preset."""
    return f"\n{name!r} is a preset; the folder of that name is .{os.sep}{name}" if Path(name).exists() else ""


def _existing(what: str) -> Path:
    if not Path(what).exists():
        presets = ", ".join(preset_names())
        raise UsageError(f"{what}: no such file or folder, and no preset is called {what!r}; there are: {presets}")
    return Path(what)
