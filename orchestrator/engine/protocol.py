"""Defines what an engine does: it runs a job over many items, on Ray or in this process.

A job consists of plain values and is sent to other processes; its worker holds what was loaded, such as
a model, and is never sent. Only item numbers go to a worker and only small records come back: images and
masks are files.

Every engine treats errors in the same way:

    RunError                  the run stops with it: a full disk is not retryable
    any other CellsemiError   the item fails at once: it would fail the same way again
    any other exception,      tried again, `engine.max_attempts` times in all, then the item fails
    a lost or silent worker
    too little memory         tried again with half of it, then with a quarter, where the job can
    a lost machine            tried again, no attempt counts
    an error in `start`       no worker is placed on this node any more: at once for a CellsemiError, else when it
                              repeats; the run stops when no node is left
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeVar, runtime_checkable

from cellsemi.orchestrator.engine.usage import Usage

Record = dict[str, Any]  # the small JSON object that a job returns for an item; each job chooses its keys
IncidentKind = Literal[
    "lost", "frozen", "banned", "replaced", "requeued", "retried", "preempted", "quarantined", "waiting"
]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that went wrong on the way and did not end the run, or what was done about it.

    lost         the process of a worker, or its node, is gone
    frozen       a worker was silent for longer than its deadline, and was ended
    preempted    the machine of a worker was taken away on purpose
    banned       no worker is placed on this node any more
    replaced     a worker took the place of one that was lost, frozen or preempted
    requeued     an item that a gone worker held goes to another one; it is charged no attempt
    retried      an item is charged an attempt and tried again
    quarantined  an item is given up
    waiting      nothing goes on until the cluster has what the work needs

    `message` is one sentence that can stand alone. `node` names the machine, "" where none is meant or known; `item` is
    the number of the item within its stage.
    """

    kind: IncidentKind
    message: str
    node: str = ""
    item: int | None = None

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.kind}: {self.message}" + (f" (node {self.node})" if self.node else "")


OnDone = Callable[[int, Record], None]
Tick = Callable[[], None]
OnIncident = Callable[[Incident], None]


def unreported(_: Incident) -> None:
    """For callers that report no incident; the engine writes each to the log in any case."""


class Worker(Protocol):
    """A started job."""

    def run(self, item: int) -> Record:
        """Process the item, write its files atomically, return a small JSON record. May be called again for it."""
        ...


class Job(Protocol):
    """One kind of work: a frozen dataclass of plain values, so that it can be sent to other machines."""

    @property
    def name(self) -> str:
        """The name of the job in messages."""
        ...

    @property
    def uses_device(self) -> bool:
        """Whether a GPU makes the job faster: only then do its workers reserve one."""
        ...

    def start(self) -> Worker:
        """Called once in the process of the worker, before the first item: load the model here."""
        ...


@runtime_checkable
class ShowsProgress(Protocol):
    """A job whose items take so long that they show their progress meanwhile, on storage that the driver sees."""

    def progress(self, item: int) -> object | None:
        """Asked in the driver: what changes as often as the item gets on; None as long as nothing shows."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that failed; `error` is one line that begins with the type of the error."""

    item: int
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a job: each item is either in `done`, with its record, or in `failed`."""

    done: dict[int, Record]
    failed: tuple[Failure, ...]


class Engine(Protocol):
    """Runs jobs. A context manager; leaving it closes it."""

    def map(
        self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick, on_incident: OnIncident = unreported
    ) -> Outcome:
        """Process all items on long-lived workers, each of which starts the job once.

        `on_done(item, record)` is called once for each item that is done, `on_incident(incident)` for all that goes
        wrong meanwhile, and `tick()` about four times a second, all in the caller's thread; in-process, `tick` is
        called after every item. Raises RunError when a worker does, EngineError when no worker can be placed or
        started.
        """
        ...

    def tasks(
        self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick, on_incident: OnIncident = unreported
    ) -> Outcome:
        """As `map`, but in the order given, and no item waits behind another: for training.

        A job that `ShowsProgress` has `engine.progress_deadline_s` from one sign to the next, others have no deadline.
        An item that holds a GPU gets a process of its own: one that ends returns all memory of the GPU.
        """
        ...

    def describe(self) -> str:
        """One line that names what the work runs on."""
        ...

    def workers(self) -> int:
        """How many workers that use the device there may be at once, at least 1, as far as is known now."""
        ...

    def cpus_for_each(self, students: int) -> float:
        """CPUs that each of so many students finds on its machine, when as many of them are at work as fit."""
        ...

    def take_usage(self) -> Usage:
        """What the workers reserved, and what became of it, since the last call; between two jobs too."""
        ...

    def close(self) -> None:
        """Stop what `open_engine` started; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
