"""Turns the exception of a worker into a Fault that any process can read."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cellsemi.configs.caught import Caught, in_one_line
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
    caught = Caught()
    with caught:
        return call()
    assert caught.error is not None
    return _fault(caught.error)


def _fault(error: Exception) -> Fault:
    kind: Literal["stop", "final", "retry"] = "retry"
    if isinstance(error, CellsemiError):
        kind = "stop" if isinstance(error, RunError) else "final"
    return Fault(kind, in_one_line(error), str(error), "".join(traceback.format_exception(error)))
