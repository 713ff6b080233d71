"""Turns an exception of a worker into a fault that any process can read."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from cellsemi.configs.errors import CellsemiError, RunError
from cellsemi.orchestrator.engine.protocol import T


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
