"""Lets one process at a time work in a folder of objects, where the system cannot lock a file: a lease.

Each process that wants the folder writes a claim of its own, an object, and then lists all claims. Stores answer with
what was written before (S3 since December 2020, Google's always), so of two processes at least the later one sees the
other; one that sees another claim takes its own back. Two that see each other both do, and try again at different
times. No condition is put on a write, since pyarrow.fs offers none.

A claim is written anew every RENEW_S. One that was not for LEASE_S is void: its process was killed, or has no
connection; the next one removes it and goes on. Ages are differences of times that the store itself wrote down, so the
clocks of machines do not matter. A process that could not renew its claim in time, or finds another beside it that is
renewed, has lost the folder: all that it then writes there is refused (`object_store.take_away`), which ends its work.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from cellsemi.configs.errors import RunError
from cellsemi.rounds.storage import appended, object_store

LEASE_S = 60.0
RENEW_S = 10.0
TRIES = 4  # where two processes claim the folder at the same moment
PAUSE_S = 0.5


class Refused(Exception):
    """Another process holds the folder; `claim` is what it wrote."""

    def __init__(self, claim: bytes) -> None:
        super().__init__("another process holds the folder")
        self.claim = claim


@contextlib.contextmanager
def lease(folder: str, claims: str, content: bytes, has_ended: Callable[[bytes], bool]) -> Iterator[None]:
    """Hold a folder of objects inside the block; Refused, with the claim, when another process does.

    `claims` is the folder of the claims, `content` what this process says of itself, and `has_ended` whether a process
    is known to have ended, by what it said: its claim is void at once.
    """
    own = f"{claims}/{uuid.uuid4().hex}.json"
    _claim(claims, own, content, has_ended)
    object_store.give_back(f"{folder}/")
    ending = threading.Event()
    keeper = threading.Thread(target=_keep, args=(folder, claims, own, content, ending), name="lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        with contextlib.suppress(RunError):  # a folder that is lost, or a store that is gone, is said by what failed
            appended.settle_below(folder)
        ending.set()
        keeper.join()
        with contextlib.suppress(RunError, FileNotFoundError):
            object_store.give_back(f"{folder}/")
            object_store.delete(own)


def holder(claims: str, has_ended: Callable[[bytes], bool]) -> bytes | None:
    """What the process that holds a folder said of itself, None where none does. Writes nothing.

    The age of a claim is measured with the clock of this machine here, since nothing is written.
    """
    now = time.time()
    for entry in object_store.list_folder(claims, fresh=True):
        if entry.modified is not None and now - entry.modified <= LEASE_S:
            with contextlib.suppress(FileNotFoundError):
                content = object_store.get(entry.address)
                if not has_ended(content):
                    return content
    return None


def _claim(claims: str, own: str, content: bytes, has_ended: Callable[[bytes], bool]) -> None:
    for attempt in range(TRIES):
        object_store.put(own, content)
        living, void = _others(claims, own, has_ended)
        if not living:
            for address in void:
                with contextlib.suppress(FileNotFoundError):
                    object_store.delete(address)
            return
        with contextlib.suppress(FileNotFoundError):
            object_store.delete(own)
        if attempt == TRIES - 1:
            raise Refused(living[0])
        time.sleep(random.uniform(0.1, 1.0) * PAUSE_S)


def _others(claims: str, own: str, has_ended: Callable[[bytes], bool]) -> tuple[list[bytes], list[str]]:
    """The contents of the claims beside one's own that count, and the addresses of those that do not."""
    entries = [entry for entry in object_store.list_folder(claims, fresh=True) if entry.modified is not None]
    written = next((entry.modified for entry in entries if entry.address == own), None)
    living: list[bytes] = []
    void: list[str] = []
    for entry in entries:
        if entry.address == own:
            continue
        try:
            content = object_store.get(entry.address)
        except FileNotFoundError:  # taken back since
            continue
        expired = written is not None and written - (entry.modified or 0.0) > LEASE_S
        if expired or has_ended(content):
            void.append(entry.address)
        else:
            living.append(content)
    return living, void


def _keep(folder: str, claims: str, own: str, content: bytes, ending: threading.Event) -> None:
    """Write the claim anew until the end; give the folder up where that fails for too long or another is there."""
    renewed, beside = _now(), dict[str, float | None]()
    while not ending.wait(RENEW_S):
        lost = _now() - renewed > LEASE_S
        if not lost:
            with contextlib.suppress(RunError):
                before = _now()
                found = {entry.address: entry.modified for entry in object_store.list_folder(claims, fresh=True)}
                # One that is renewed is held; that of a process which asks and is refused stands for a moment only.
                held = [each for each in beside if each != own and found.get(each, beside[each]) != beside[each]]
                lost, beside = own not in found or bool(held), found
                if not lost:
                    object_store.put(own, content)
                    renewed = before
        if lost:
            with contextlib.suppress(RunError, FileNotFoundError):
                object_store.delete(own)  # it may stand beside that of the next driver, which would give up as well
            object_store.take_away(
                f"{folder}/",
                f"{folder}: this process did not renew its lease for {LEASE_S:g} s (it was stopped, or the store could "
                "not be reached), and another cellsemi may work on the run now; nothing more is written by this one. "
                "The same command goes on where it stopped, when no other works on it",
            )
            return


def _now() -> float:
    """Seconds that also pass while a machine sleeps, where the system counts them (Linux)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
