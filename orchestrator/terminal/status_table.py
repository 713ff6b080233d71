"""Shows how far a run is: its stages, what goes on now, who works where, what was lost, what the workers did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cellsemi.orchestrator.terminal.tables import table
from cellsemi.rounds.duration import duration

if TYPE_CHECKING:  # each command imports only what it shows
    from cellsemi.orchestrator.engine.usage import Seconds
    from cellsemi.orchestrator.events import Event
    from cellsemi.orchestrator.runs.activity import Loss
    from cellsemi.orchestrator.runs.progress_on_disk import Stage
    from cellsemi.orchestrator.runs.status import Status

QUIET_S = 120.0  # a driver at work that says nothing for longer is worth a word
NODES_SHOWN = 16  # more nodes are counted


def print_status(status: Status, console: Console | None = None) -> None:
    """How far a run is: its stages by round, its teachers, what was quarantined, what happened last."""
    console = console or Console(highlight=False)
    for part in status_parts(status):
        soft = not isinstance(part, Table)
        console.print(part, soft_wrap=soft, overflow="ignore" if soft else None, crop=not soft)


def status_parts(status: Status) -> list[RenderableType]:
    """What is shown of a run, from top to bottom."""
    working = f"a driver is working on it ({status.driver})" if status.working else "no driver is working on it"
    parts: list[RenderableType] = [
        Text.from_markup(f"[bold]{escape(status.run)}[/bold]  {escape(status.folder)}\n{escape(working)}")
    ]
    if status.stages:
        parts.append(_stage_table(status))
    for line in (*_now(status), *_losses(status), *_told(status)):
        text = Text.from_markup(line, overflow="ellipsis")
        text.no_wrap = True  # `print_status` shows them whole
        parts.append(text)
    return parts


def _stage_table(status: Status) -> Table:
    rows = table("round", "stage", "state", "done", "time")
    rows.columns[3].justify = rows.columns[4].justify = "right"
    for round in sorted({stage.round for stage in status.stages}):
        stages = [stage for stage in status.stages if stage.round == round]
        if round in status.finished_rounds:
            rows.add_row(*_finished_cells(round, stages))
        else:
            for stage in stages:
                rows.add_row(*_stage_cells(stage))
    return rows


# --- now ------------------------------------------------------------------------------------------------


def _now(status: Status) -> Iterator[str]:
    """The stage at work, its pace, the workers by node."""
    if not status.working:
        return
    if status.current is not None:
        yield f"now:       {escape(now_words(status))}"
    if status.silent_s is not None and status.silent_s > QUIET_S:
        yield f"[yellow]no news for {duration(status.silent_s)}[/yellow]"
    if not status.workers:
        return
    yield f"workers:   {workers_words(status)}"
    for node, load in list(status.workers.items())[:NODES_SHOWN]:
        gpus = f", {_count(load.gpus, 'GPU')}" if load.gpus else ""
        yield f"           {escape(node)}: {_count(load.workers, 'worker')}{gpus}"
    if len(status.workers) > NODES_SHOWN:
        yield f"           and {len(status.workers) - NODES_SHOWN} nodes more"


def now_words(status: Status) -> str:
    """The stage at work: `round 1, predict unlabelled: 24 of 48 images, 2.1/s, 13 s left`; empty between two."""
    current = status.current
    if current is None:
        return ""
    pace = f", {current.words}" if current.words else ""
    return f"round {current.round}, {current.stage}: {current.done} of {current.total} {current.unit}{pace}"


def workers_words(status: Status) -> str:
    """`3 workers on 2 nodes, 2 of 4 GPUs`."""
    workers = sum(load.workers for load in status.workers.values())
    gpus = sum(load.gpus for load in status.workers.values())
    words = f"{_count(workers, 'worker')} on {_count(len(status.workers), 'node')}"
    return words + (f", {gpus:g} of {_count(status.cluster_gpus, 'GPU')}" if status.cluster_gpus else "")


def _count(number: float, noun: str) -> str:
    return f"{number:g} {noun}" + ("" if number == 1 else "s")


# --- what was lost, and used -----------------------------------------------------------------------------


def _losses(status: Status) -> Iterator[str]:
    if status.incidents:
        yield f"incidents: {escape(incident_words(status.incidents))}"
    for loss in status.losses:
        yield f"           [yellow]{escape(loss_words(loss))}[/yellow]"
    if words := use_words(status):
        yield f"time:      {escape(words)}"


def incident_words(counts: dict[str, int]) -> str:
    """`1 frozen, 2 lost, 3 replaced`."""
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def loss_words(loss: Loss) -> str:
    """`02:13:05 UTC  lost: worker 0 on item 3: ActorDiedError: .. (node 10.0.0.3/ab12cd34)`."""
    node = f" (node {loss.node})" if loss.node else ""
    return f"{loss.time[11:19]} UTC  {loss.kind}: {loss.message}{node}"


def use_words(status: Status) -> str:
    """What the GPUs did so far, or the workers where none has a GPU; empty while nothing was reserved."""
    for name, seconds in (("GPU", status.gpu_seconds), ("worker", status.worker_seconds)):
        if seconds.reserved > 0:
            return f"{duration(seconds.reserved)} of {name} time: {shares(seconds)}"
    return ""


def shares(seconds: Seconds) -> str:
    """`computing 81%, starting 4%, idle 12%, lost 3%`, of what was reserved."""
    parts = {
        "computing": seconds.computing,
        "starting": seconds.starting,
        "idle": seconds.idle,
        "lost": seconds.lost,
    }
    return ", ".join(f"{name} {_share(value / seconds.reserved)}" for name, value in parts.items())


def _share(part: float) -> str:
    return f"{part:.1%}" if 0 < part < 0.01 else f"{part:.0%}"


# --- what is known besides ------------------------------------------------------------------------------


def _told(status: Status) -> Iterator[str]:
    yield from (escape(decision) for decision in status.decisions)
    if status.teachers:
        yield f"teachers of the next round: {escape(status.teachers)}"
    if status.drift is not None:
        for alarm in status.drift.alarms:
            yield f"[yellow]drift in round {status.drift.round}:[/yellow] {escape(alarm)}"
        if not status.drift.alarms:
            yield f"no drift alarm in round {status.drift.round}"
    if status.quarantined is not None:
        yield f"quarantined images: {status.quarantined}"
    if status.last_event is not None:
        yield f"last event: {escape(event_words(status.last_event))}"


def event_words(event: Event) -> str:
    """When something happened, and what."""
    when = event.time[:19].replace("T", " ") + " UTC"
    if event.message:
        kind = f"{event.incident}: " if event.incident else ""
        return f"{when}  {kind}{event.message}"
    what = {
        "stage": "began",
        "advance": f"{event.done} of {event.total} {event.unit}",
        "finish": "finished",
        "skipped": "was done before",
    }[event.event]
    return f"{when}  round {event.round}, {event.stage}: {what}"


def _finished_cells(round: int, stages: Sequence[Stage]) -> tuple[str, ...]:
    """A finished round in one line: its stages are all done."""
    seconds = sum(stage.seconds or 0.0 for stage in stages)
    return str(round), "all", "[green]done[/green]", f"{len(stages)} stages", duration(seconds)


def _stage_cells(stage: Stage) -> tuple[str, ...]:
    state = "[green]done[/green]" if stage.state == "done" else "[yellow]begun[/yellow]"
    of = "" if stage.total is None or stage.total == stage.done else f" of {stage.total}"
    done = "" if stage.done is None else f"{stage.done}{of} {stage.unit}"
    seconds = "" if stage.seconds is None else duration(stage.seconds)
    return str(stage.round), escape(stage.name), state, done, seconds
