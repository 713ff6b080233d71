"""Defines what an engine does: it runs a job over many items, on Ray or in this process.

A job consists of plain values and is sent to other processes; its worker holds what was loaded, such as
a model, and is never sent. Only item numbers go to a worker and only small records come back: images and
masks are files.

Every engine treats errors in the same way:

    RunError                  the run stops with it: a full disk is not retryable
    any other CellsemiError   the item fails at once: it would fail the same way again
    any other exception,      tried again, `engine.max_attempts` times in all, then the item fails
    a lost or silent worker
    an error in `start`       a CellsemiError stops the run at once, others when they repeat
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

Record = dict[str, Any]  # the small JSON object that a job returns for an item; each job chooses its keys
OnDone = Callable[[int, Record], None]
Tick = Callable[[], None]
T = TypeVar("T")


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

    def map(self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick) -> Outcome:
        """Process all items on long-lived workers, each of which starts the job once.

        `on_done(item, record)` is called once for each item that is done and `tick()` about four times a
        second, both in the caller's thread; in-process, `tick` is called after every item. Raises RunError
        when a worker does, EngineError when no worker can be placed or started.
        """
        ...

    def tasks(self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick) -> Outcome:
        """As `map`, but in the order given, without a deadline, and no item waits behind another: for training.

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

    def close(self) -> None:
        """Stop what `open_engine` started; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
