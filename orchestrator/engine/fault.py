"""Turns the exception of a worker into a Fault that any process can read."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from cellsemi.configs.errors import Caught, CellsemiError, RunError, in_one_line
from cellsemi.orchestrator.engine.protocol import T

FaultKind = Literal["stop", "final", "retry", "memory", "node"]
OUT_OF_MEMORY = (  # of a RuntimeError of torch: a GPU's memory has an exception of its own, a CPU's has not
    "CUDA out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as plain text, which any process can unpickle, whatever class the error had.

    `kind`: `stop` ends the run, `final` fails the item, `retry` lets the item be tried again, `memory` as well, with
    less of it; `node`: this node cannot do the work.
    """

    kind: FaultKind
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


def out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, on the CPU or on a GPU.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("CUDA out of memory. Tried to ..."))
    (True, True)
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # of torch, which need not be here
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def _fault(error: Exception) -> Fault:
    kind: FaultKind = "memory" if out_of_memory(error) else "retry"
    if isinstance(error, CellsemiError):
        kind = "stop" if isinstance(error, RunError) else "final"
    return Fault(kind, in_one_line(error), str(error), "".join(traceback.format_exception(error)))
