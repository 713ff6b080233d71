"""Defines what all commands share: the state of the call, the common options, and how a result is printed."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from cellsemi.configs.presets.preset_files import LOCAL_FILE

Command = Callable[..., None]
CRASH_LOG = ("cellsemi-", ".log")  # where there is no run to hold the log of a crash: a file for temporary ones
CRASH_LOG_S = 24 * 3600.0


@dataclass(slots=True)
class Session:
    """One call of the program: whether to show tracebacks, and the log of the run that it works on, if any."""

    debug: bool = False
    log: Path | None = None

    def crashed(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """As sys.excepthook: the traceback goes to the log, one sentence to the terminal."""
        if self.debug:
            traceback.print_exception(kind, error, trace)
            return
        path = self.log
        if path is None:
            _sweep_crash_logs()
            handle, name = tempfile.mkstemp(prefix=CRASH_LOG[0], suffix=CRASH_LOG[1])
            os.close(handle)
            path = Path(name)
        with path.open("a", encoding="utf-8") as file:
            traceback.print_exception(kind, error, trace, file=file)
        click.echo(
            f"Error: cellsemi failed in a way it does not know ({kind.__name__}: {error}).\n"
            f"The details are at the end of {path}; --debug shows them here.",
            err=True,
        )

    def stopped(self, word: str) -> None:
        """One line after Ctrl-C or SIGTERM."""
        rest = " What is done is kept: the same command goes on where it stopped." if self.log else ""
        click.echo(f"{word}.{rest}", err=True)


class AnyPlace(click.Path):
    """A path of this machine, or the address of objects in a bucket."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        """The Path, or the ObjectPath; a usage error where it has to exist and does not."""
        from cellsemi.rounds.store import files

        place = files.place(value)
        if "://" not in str(place):
            return super().convert(value, parameter, context)
        if self.exists and not place.exists():
            self.fail(f"{value}: there are no such objects", parameter, context)
        return place


def _sweep_crash_logs() -> None:
    """Remove the logs of earlier crashes that are older than a day."""
    for path in Path(tempfile.gettempdir()).glob("*".join(CRASH_LOG)):
        with contextlib.suppress(OSError):  # of another user, or gone
            if time.time() - path.stat().st_mtime > CRASH_LOG_S:
                path.unlink()


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Session).debug = True


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_set_debug,
    help="Show tracebacks (or CELLSEMI_DEBUG=1).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to standard output, nothing else.")


def config_options(command: Command) -> Command:
    """--config and --set."""
    command = click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        help="Change one setting, e.g. --set training.steps=100. May be repeated.",
    )(command)
    return click.option(
        "--config",
        "source",
        metavar="PATH|PRESET",
        help=f"A YAML file (a run's run.yaml, too) or a preset. Default: ./{LOCAL_FILE}, else the preset 'demo'.",
    )(command)


def answer(as_json: bool, content: Any, show: Callable[[], None]) -> None:
    """Print `content` as JSON, or call `show`, which prints it for a person."""
    if as_json:
        click.echo(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        show()
