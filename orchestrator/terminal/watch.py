"""Follows a run from its folder alone, until Ctrl-C: redrawn on a terminal, as lines or as JSON elsewhere.

The driver may be on another machine: nothing is asked of it, and nothing is written into the folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TextIO

import click
from rich.console import Group
from rich.live import Live

from cellsemi.configs.errors import RunError
from cellsemi.orchestrator.engine.protocol import Incident
from cellsemi.orchestrator.events import Event
from cellsemi.orchestrator.runs.activity import Activity
from cellsemi.orchestrator.runs.status import Status, read_status
from cellsemi.orchestrator.terminal.status_table import now_words, status_parts, use_words, workers_words
from cellsemi.orchestrator.terminal.watchers import console_for
from cellsemi.rounds.store.run import RunPaths

PATIENCE = 3  # looks in a row that a run may change under
Looks = Iterator[tuple[Status, list[Event]]]


def watch(paths: RunPaths, interval_s: float, stream: TextIO, as_json: bool = False) -> None:
    """Show the run every `interval_s` seconds until Ctrl-C; RunError when its folder is damaged."""
    console = console_for(stream)
    looks = _looks(paths, interval_s)
    try:
        if as_json:
            _follow(stream, looks, lambda status, _: [json.dumps(status.to_json(), ensure_ascii=False)])
        elif console.is_terminal and not console.is_dumb_terminal:
            with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
                for status, _ in looks:
                    live.update(Group(*status_parts(status)), refresh=True)
        else:
            _follow(stream, looks, PlainLines())
    except KeyboardInterrupt:
        return


def _looks(paths: RunPaths, interval_s: float) -> Looks:
    """The status of the run, again and again, each with the events that are new since the one before."""
    activity, failures = Activity(paths.events), 0
    while True:
        new = activity.follow()
        try:
            status = read_status(paths, activity)
        except (RunError, FileNotFoundError):  # files of a step may be moved aside just now
            failures += 1
            if failures >= PATIENCE:
                raise
        else:
            failures = 0
            yield status, new
        time.sleep(interval_s)


def _follow(stream: TextIO, looks: Looks, lines: Callable[[Status, list[Event]], list[str]]) -> None:
    for status, new in looks:
        for line in lines(status, new):
            click.echo(line, file=stream)
        stream.flush()


class PlainLines:
    """The lines of one look: each incident once, and how things stand where that has changed."""

    def __init__(self) -> None:
        self._before: list[str] | None = None

    def __call__(self, status: Status, new: list[Event]) -> list[str]:
        """The lines to print; the first look tells no incidents of long ago, but how many there were."""
        told = [] if self._before is None else [_incident(event) for event in new if event.incident is not None]
        lines = [f"{status.run}: {self._head(status)}"]
        if status.working and status.workers:
            lines.append(f"  {workers_words(status)}")
        if status.incidents:
            lines.append("  incidents: " + ", ".join(f"{count} {kind}" for kind, count in status.incidents.items()))
        changed = lines != self._before
        self._before = lines
        return told + (lines if changed else [])

    @staticmethod
    def _head(status: Status) -> str:
        if not status.working:
            used = use_words(status)
            rounds = f"{len(status.finished_rounds)} rounds are finished"
            return f"no driver is working on it; {rounds}" + (f"; {used}" if used else "")
        return now_words(status) or "a driver is working on it"


def _incident(event: Event) -> str:
    assert event.incident is not None
    where = f"round {event.round}, {event.stage}"
    return f"{event.time[11:19]} UTC  {where}: {Incident(event.incident, event.message, event.node, event.item)}"
