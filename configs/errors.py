"""Defines the error tree: every error that a user can cause or mend.

    CellsemiError              exit 1
      UsageError               exit 2: the command or the config is wrong; nothing was started
        ConfigError            a key or a value of the config, with its dotted path
      DataError                a file or a row of the user's data, with the remedy
        ImageError             one image that cannot be read: quarantined and counted, not fatal
      RunError                 a run on disk: locked, changed, damaged, no space
      ModelError               a model: missing framework, missing or altered weights
        TrainingDiverged       a loss or a gradient became NaN or infinite
      EngineError              workers that cannot be placed, or work that failed on every attempt

Messages say what was found, where, and what to do. They are for a person at a terminal: no class
names, no tracebacks. `Caught` keeps an error of any kind, to report it: the only place that catches all of them.
"""

from __future__ import annotations

import contextlib
from types import TracebackType


class CellsemiError(Exception):
    """Base of all errors that cellsemi raises on purpose."""

    exit_code = 1


class UsageError(CellsemiError):
    """The command line or the configuration cannot be carried out as given."""

    exit_code = 2


class ConfigError(UsageError):
    """A key or a value of the configuration is wrong; the message holds its dotted path."""


class DataError(CellsemiError):
    """The user's data cannot be used as it is; the message names file, row and remedy."""


class ImageError(DataError):
    """One image or its annotation is unusable. Callers quarantine it, count it and go on."""

    def __init__(self, path: str, problem: str, remedy: str = "") -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{path}: {self.described}")

    @property
    def described(self) -> str:
        """The problem with its remedy, without the path."""
        return f"{self.problem} ({self.remedy})" if self.remedy else self.problem

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str, str]]:
        return (type(self), (self.path, self.problem, self.remedy))


class RunError(CellsemiError):
    """A run on disk cannot be used: in use, made with another config, damaged, or out of space."""


class ModelError(CellsemiError):
    """A model cannot be built or loaded: framework missing, weights missing or not the stated ones."""


class TrainingDiverged(ModelError):
    """The loss or the gradient norm is not finite; the message names the step and the last good one."""


class EngineError(CellsemiError):
    """Work could not be placed on a worker, or failed on every attempt."""


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
