"""Writes the page of a run after each round in a process of its own, so that the run does not wait for it.

It has a low priority and one thread. Where a round ends before the page of the one before is written, that one is given
up: the next holds all that it would. What goes wrong ends up in run.log and in a note, and never ends the run.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellsemi.rounds.store.run import RunPaths

NICENESS = 10
PATIENCE_S = 600.0  # at the end of a call


@contextlib.contextmanager
def pages_beside(paths: RunPaths, note: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """What begins to write the page of the run; at the end of the block the last one is waited for, and noted.

    Where the block ends with an error, it is given up.
    """
    beside = _Beside(paths)
    try:
        yield beside.begin
        if (sentence := beside.outcome()) is not None:
            note(sentence)
    finally:
        beside.give_up()


class _Beside:
    """At most one process that writes the page."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._process: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        from cellsemi.rounds.store import files

        self.give_up()
        command = [sys.executable, "-P", "-m", __name__, str(self._paths.root)]
        with files.append_to(self._paths.log).open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def outcome(self) -> str | None:
        """What became of the last page, in a sentence; None where none was begun."""
        if self._process is None:
            return None
        try:
            said, _ = self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            return f"the report is not written after {PATIENCE_S:g} s: `cellsemi report {self._paths.name}` writes it"
        if self._process.returncode:
            return f"the report could not be written; {self._paths.log} says why"
        return f"report: {said.strip()}"

    def give_up(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.kill()
            process.communicate()


def main(root: str) -> None:
    """Write the page of the run in a folder, and say where it is."""

    from cellsemi.orchestrator.runs.page import write_page
    from cellsemi.rounds.store import files
    from cellsemi.rounds.store.run import RunPaths, read_config

    if hasattr(os, "nice"):
        os.nice(NICENESS)
    paths = RunPaths(files.place(root))
    sys.stdout.write(write_page(read_config(paths), paths).sentence() + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
