"""Remembers for some seconds what a store said of objects and folders, so that each question costs few requests.

It holds as long as nobody else changes what was asked for. So what this process writes or removes is forgotten at once,
all is when a process gives work to another or takes its result (`object_store.others_wrote`), and that an object is
not there is remembered for a shorter time.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

REMEMBERED_S = 10.0
ABSENT_S = 2.0
SMALL = 2**18  # bytes; the content of such objects is kept, and read again only when the store says that it is another
KEPT = 2**26  # bytes of contents in all
MOST = 10_000  # answers of a kind

T = TypeVar("T")


class Answers(Generic[T]):
    """The answers of one kind, by address."""

    def __init__(self, seconds: float = REMEMBERED_S) -> None:
        self._seconds = seconds
        self._found: dict[str, tuple[float, T]] = {}

    def get(self, address: str) -> T | None:
        """A fresh answer, None where there is none."""
        found = self._found.get(address)
        return found[1] if found is not None and time.monotonic() - found[0] < self._seconds else None

    def note(self, address: str, answer: T) -> T:
        """Remember an answer."""
        if len(self._found) > MOST:
            self._found.clear()
        self._found[address] = (time.monotonic(), answer)
        return answer

    def forget(self, address: str) -> None:
        """Forget the answer for an address."""
        self._found.pop(address, None)

    def forget_below(self, folder: str) -> None:
        """Forget the answers for a folder and all below it; "" for all there are."""
        if not folder:
            self._found.clear()
        for address in [each for each in list(self._found) if each == folder or each.startswith(f"{folder}/")]:
            self._found.pop(address, None)


class Contents:
    """The content of small objects, each with the mark of the store that tells it from any other."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, address: str, mark: str) -> bytes | None:
        """The content with this mark, None where it is not kept."""
        kept, content = self._kept.get(address, ("", b""))
        return content if kept == mark else None

    def keep(self, address: str, mark: str, content: bytes) -> bytes:
        """Keep a content if it is small; returns it."""
        if len(content) <= SMALL:
            with self._lock:
                self._drop(address)
                self._kept[address] = (mark, content)
                self._bytes += len(content)
                while self._bytes > KEPT:
                    self._drop(next(iter(self._kept)))
        return content

    def _drop(self, address: str) -> None:
        _, content = self._kept.pop(address, ("", b""))
        self._bytes -= len(content)


def around(address: str) -> Iterator[str]:
    """An address, and the folders that it lies in up to its bucket.

    >>> list(around("s3://bucket/a/b"))
    ['s3://bucket/a/b', 's3://bucket/a', 's3://bucket']
    """
    scheme, _, key = address.partition("://")
    parts = key.split("/")
    for length in range(len(parts), 0, -1):
        yield f"{scheme}://{'/'.join(parts[:length])}"
