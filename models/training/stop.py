"""Ends a process after SIGTERM in order: at once, or where a block asks for it, at the next look at the flag.

An exception that a signal raises inside of Ray's calls, or between two steps of a training, is swallowed there or
leaves a state that nobody saved. Such blocks are `deferred`, and look at the flag where they can stop.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Terminated(BaseException):
    """SIGTERM has come."""


class _State:
    """What the handler and the blocks share; a process has one main thread, in which signals arrive."""

    wanted = False
    blocks = 0


def catch_sigterm() -> None:
    """Handle SIGTERM in this process; does nothing in another than the main thread, which gets no signals."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


@contextlib.contextmanager
def keeping_handler() -> Iterator[None]:
    """Keep the handler of SIGTERM within the block: ray sets its own when it is imported and when it starts.

    Put back only at the end, a SIGTERM on the way would end the process with exit code 15. Ray's C++ part replaces the
    handler behind Python's back, before its Python part sets one: ours is set again at that moment, and at the end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    real, ours = signal.signal, signal.getsignal(signal.SIGTERM)

    def keeping(number: int, handler: Any) -> Any:
        return real(number, ours if number == signal.SIGTERM else handler)

    signal.signal = keeping  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = real
        real(signal.SIGTERM, ours)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """SIGTERM sets the flag only, within this block; the end of the outermost one raises Terminated, if it has come."""
    _State.blocks += 1
    try:
        yield
    finally:
        _State.blocks -= 1
    stop_if_wanted()


def stop_if_wanted() -> None:
    """Raise Terminated when SIGTERM has come: the place in a deferred block where the work can stop."""
    if _State.wanted:
        _State.wanted = False  # it is answered: what cleans up behind it is not stopped again
        raise Terminated


def wanted() -> bool:
    """Whether SIGTERM has come."""
    return _State.wanted


def _terminate(_: int, __: FrameType | None) -> None:
    _State.wanted = True
    if _State.blocks == 0:
        raise Terminated
