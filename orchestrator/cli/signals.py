"""Turns SIGTERM into an exception, so that locks, workers and the terminal are released in order."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn


class Terminated(BaseException):
    """SIGTERM has come."""


def catch_sigterm() -> None:
    """Raise Terminated on SIGTERM; called again after ray is imported, which replaces the handler."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(_: int, __: FrameType | None) -> NoReturn:
    raise Terminated
