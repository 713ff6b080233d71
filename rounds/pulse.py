"""Says that a process gets on with its work where nothing else shows it: between two images, between two windows.

Whoever watches over long work (a training that also predicts validation images) listens; mostly nobody does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Listener = Callable[[], None]


class _State:
    """A process does one piece of work at a time, in several threads."""

    listener: Listener | None = None


def beat() -> None:
    """The work has got on."""
    if _State.listener is not None:
        _State.listener()


@contextlib.contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Call `listener` at every beat within the block, in the thread that beats."""
    before, _State.listener = _State.listener, listener
    try:
        yield
    finally:
        _State.listener = before
