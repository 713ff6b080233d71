"""What an engine is: it carries a job out over many items, on Ray or in this process.

A job is plain values and travels; its worker holds what was loaded, such as a model, and stays where it
is. Only item numbers go to a worker and only small records come back: images and masks are files.

What happens when something goes wrong is the same on every engine:

    RunError                  the run stops with it: a full disk is nobody's bad luck
    any other CellsemiError   the item fails at once: it would fail the same way again
    any other exception,      tried again, `engine.max_attempts` times in all, then the item fails
    a lost or silent worker
    an error in `start`       a CellsemiError stops the run at once, others when they repeat
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

Record = dict[str, Any]


OnDone = Callable[[int, Record], None]


Tick = Callable[[], None]


T = TypeVar("T")


class Worker(Protocol):
    """A started job."""

    def run(self, item: int) -> Record:
        """Do the item, write its files atomically, return a small JSON record. May be called again for it."""
        ...


class Job(Protocol):
    """Work of one kind: a frozen dataclass of plain values, so that it can travel to other machines."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def uses_device(self) -> bool:
        """Whether a GPU would speed it up: only then do its workers reserve one."""
        ...

    def start(self) -> Worker:
        """Called once in the worker's process, before the first item: load the model here."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that was given up; `error` is one line that begins with the type of the error."""

    item: int
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Every item is in one of the two: the records of what was done, and what was given up."""

    done: dict[int, Record]
    failed: tuple[Failure, ...]


class Engine(Protocol):
    """Carries jobs out. A context manager; leaving it closes it."""

    def map(self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick) -> Outcome:
        """Do all items on a pool of long-lived workers, each of which starts the job once.

        `on_done(item, record)` is called once for each item that is done and `tick()` about four times a
        second, both in the caller's thread; in-process, `tick` is called after every item. Raises RunError
        when a worker does, EngineError when no worker can be placed or started.
        """
        ...

    def tasks(self, job: Job, items: Sequence[int], on_done: OnDone, tick: Tick) -> Outcome:
        """As `map`, with a fresh worker for each item, in the order given: for training.

        A fresh process gives all of its (GPU) memory back. There is no deadline on an item here.
        """
        ...

    def describe(self) -> str:
        """One line: what the work runs on."""
        ...

    def close(self) -> None:
        """Stop what `open_engine` started; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
