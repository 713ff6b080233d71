"""Turns the exception of a worker into a Fault that any process can read."""

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
    """An error as plain text, which any process can unpickle, whatever class the error had.

    `kind`: `stop` ends the run, `final` fails the item, `retry` lets the item be tried again.
    """

    kind: Literal["stop", "final", "retry"]
    error: str  # one line: the type and the message
    message: str  # the message unchanged
    trace: str = ""  # for the log


def attempt(call: Callable[[], T]) -> T | Fault:
    """Return the result of the call, or a Fault when it raises; KeyboardInterrupt and SystemExit pass.

    >>> attempt(lambda: 1), attempt(lambda: 1 // 0).error
    (1, 'ZeroDivisionError: integer division or modulo by zero')
    """
    caught = _Caught()
    with caught:
        return call()
    assert caught.error is not None
    return _fault(caught.error)


def in_one_line(error: BaseException | str) -> str:
    """The message without line breaks; for an exception, with its type in front."""
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
    """Keeps the exception of its block: the only place that catches every error, to report it as a Fault."""

    error: Exception | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self.error = error
        return self.error is not None
