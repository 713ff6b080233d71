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

import contextlib
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar

from cellsemi.configs.errors import CellsemiError, RunError
from cellsemi.configs.schema import EngineConfig

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


def open_engine(config: EngineConfig, log_path: Path, kind: str | None = None, address: str | None = None) -> Engine:
    """The engine of a config; `kind` and `address`, when given, come before the config's.

    `log_path` lies in the run's folder: that folder must be seen by every node of a cluster, which is
    checked. Raises EngineError when Ray cannot be started or reached.
    """
    if (kind or config.kind) == "inline":
        from cellsemi.orchestrator.inline import InlineEngine

        return InlineEngine(config)
    from cellsemi.orchestrator.ray_start import start_ray

    session = start_ray(address or config.address, log_path.parent)
    from cellsemi.orchestrator.ray_engine import RayEngine  # imports ray, whose settings stand only now

    return RayEngine(config, session)


# --- one call of a worker ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong in a call, in words that any process can read, whatever the error was made of.

    `kind`: `stop` ends the run, `final` ends the item, `retry` may go better next time.
    """

    kind: Literal["stop", "final", "retry"]
    error: str  # one line: the type and the message
    message: str  # the message as it was
    trace: str = ""  # for the log


def attempt(call: Callable[[], T]) -> T | Fault:
    """What the call returns, or the Fault that it ended in; KeyboardInterrupt and SystemExit pass.

    >>> attempt(lambda: 1), attempt(lambda: 1 // 0).error
    (1, 'ZeroDivisionError: integer division or modulo by zero')
    """
    caught = _Caught()
    with caught:
        return call()
    assert caught.error is not None
    return _fault(caught.error)


def in_one_line(error: BaseException | str) -> str:
    """The message without line breaks; of an error, with its type in front."""
    text = " ".join(str(error).split())
    if isinstance(error, str):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _fault(error: Exception) -> Fault:
    kind: Literal["stop", "final", "retry"] = "retry"
    if isinstance(error, CellsemiError):
        kind = "stop" if isinstance(error, RunError) else "final"
    return Fault(kind, in_one_line(error), str(error), "".join(traceback.format_exception(error)))


class _Caught(contextlib.AbstractContextManager["_Caught"]):
    """Keeps the exception of its block: the one place where any error is taken, to be reported as a Fault."""

    error: Exception | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self.error = error
        return self.error is not None
