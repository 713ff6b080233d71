"""Shows the progress of a run on a terminal, or as plain lines in a job log.

The campaign calls one Watcher and knows nothing of terminals. A watcher writes to the stream that it is
given, never to `sys.stdout`: while Ray runs, file descriptors 1 and 2 belong to the log file.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from cellsemi.orchestrator.engine.protocol import Incident
from cellsemi.orchestrator.events import Clock, SilentWatcher, Watcher
from cellsemi.orchestrator.runs.pace import Pace
from cellsemi.rounds.duration import duration

PLAIN_EVERY_S = 10.0  # between two lines of one stage when there is no terminal
BAR_FROM_COLUMNS = 100  # narrower terminals show the text without a bar


class PlainWatcher:
    """Plain lines without time stamps, for a file, a pipe or a job log."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._label = ""
        self._pace = Pace(0, "", clock)
        self._shown_s = clock()

    def stage(self, round: int | None, name: str, total: int, unit: str) -> None:
        """One line: what begins and how much it is."""
        self._label = name if round is None else f"round {round}: {name}"
        self._pace = Pace(total, unit, self._clock)
        self._line(f"{self._label}: {total} {unit}")

    def advance(self, done: int) -> None:
        """A line at most every PLAIN_EVERY_S."""
        pace = self._pace
        pace.advance(done)
        if self._clock() - self._shown_s >= PLAIN_EVERY_S:
            words = pace.words()
            self._line(f"{self._label}: {pace.done} of {pace.total} {pace.unit}" + (f", {words}" if words else ""))

    def note(self, message: str) -> None:
        """The sentence on its own line."""
        self._line(f"  {message}")

    def incident(self, incident: Incident) -> None:
        """One line."""
        self._line(f"  {incident}")

    def finish(self, seconds: float) -> None:
        """One line with the time that the stage took."""
        self._line(f"{self._label}: done in {duration(seconds)}")

    def skipped(self, round: int, name: str) -> None:
        """One line."""
        self._line(f"round {round}: {name}: was done before")

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
        self._shown_s = self._clock()


class LiveWatcher:
    """A live line for the current stage; each finished stage stays above it as one line.

    A context manager: leaving it, also by Ctrl-C, restores the terminal.
    """

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._pace = Pace(0, "", clock)
        self._label = ""
        bar = [BarColumn(bar_width=16)] if console.width >= BAR_FROM_COLUMNS else []
        self._progress = Progress(
            TextColumn("{task.description}"),
            *bar,
            _PaceColumn(self),
            console=console,
            transient=True,
            redirect_stdout=False,  # the output of others belongs in the log file
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveWatcher:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @property
    def pace(self) -> Pace:
        """The pace of the current stage."""
        return self._pace

    def stage(self, round: int | None, name: str, total: int, unit: str) -> None:
        """The live line now shows this stage."""
        self._clear()
        self._pace = Pace(total, unit, self._clock)
        self._label = _label(round, name)
        self._progress.add_task(self._label, total=total)

    def advance(self, done: int) -> None:
        """The bar moves."""
        self._pace.advance(done)
        for task in self._progress.task_ids:
            self._progress.update(task, completed=self._pace.done)

    def note(self, message: str) -> None:
        """The sentence stays above the live line."""
        self._print(f"  {escape(message)}", style="italic")

    def incident(self, incident: Incident) -> None:
        """One line, which stays above the live line."""
        self._print(f"  {escape(str(incident))}", style="yellow")

    def finish(self, seconds: float) -> None:
        """The stage stays as one line with its amount and its time."""
        self._clear()
        pace = self._pace
        self._print(f"{self._label}  [dim]{pace.total} {pace.unit} in[/dim] {duration(seconds)}")

    def skipped(self, round: int, name: str) -> None:
        """One line."""
        self._print(f"{_label(round, name)}  [dim]was done before[/dim]")

    def _clear(self) -> None:
        for task in self._progress.task_ids:
            self._progress.remove_task(task)

    def _print(self, text: str, style: str | None = None) -> None:
        self._progress.console.print(text, style=style, highlight=False)


class _PaceColumn(ProgressColumn):
    """Amount, rate and time left of a LiveWatcher's stage."""

    def __init__(self, watcher: LiveWatcher) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._watcher = watcher

    def render(self, task: Task) -> Text:
        pace = self._watcher.pace
        words = pace.words()
        return Text.assemble(f"{pace.done}/{pace.total} {pace.unit}", (f"  {words}", "dim"))


def _label(round: int | None, name: str) -> str:
    return escape(name) if round is None else f"[bold]round {round}[/bold]  {escape(name)}"


def console_for(stream: TextIO) -> Console:
    """A rich console on `stream`, as wide as the terminal of that stream, whatever stdin is."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if not os.isatty(0) and "COLUMNS" not in os.environ:
            return Console(file=stream, width=os.get_terminal_size(stream.fileno()).columns)
    return Console(file=stream)


@contextlib.contextmanager
def open_watcher(stream: TextIO, silent: bool = False) -> Iterator[Watcher]:
    """The watcher that fits a stream: live on a terminal, plain lines otherwise."""
    if silent:
        yield SilentWatcher()
    elif (console := console_for(stream)).is_terminal and not console.is_dumb_terminal:
        with LiveWatcher(console) as watcher:
            yield watcher
    else:
        yield PlainWatcher(stream)
