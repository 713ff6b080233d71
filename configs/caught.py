"""Keeps an error instead of raising it: the only place that catches every kind of error, to report it."""

from __future__ import annotations

import contextlib
from types import TracebackType


class Caught(contextlib.AbstractContextManager["Caught"]):
    """Keeps the exception of its block as `error`; KeyboardInterrupt and SystemExit pass.

    >>> with Caught() as caught:
    ...     1 // 0
    >>> in_one_line(caught.error)
    'ZeroDivisionError: integer division or modulo by zero'
    """

    error: Exception | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self.error = error
        return self.error is not None


def in_one_line(error: BaseException | str) -> str:
    """The message without line breaks; for an exception, with its type in front."""
    text = " ".join(str(error).split())
    if isinstance(error, str):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
