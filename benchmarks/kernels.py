"""The compiled kernels beside what others use for the same: CPU time, ratio, goal; to kernels.md.

    python benchmarks/kernels.py [--only WORD] [--cells N] [--json]

One dense image of 494 cells (520x704), its predictions and teachers, all in one process and on one thread; both sides
are warm. Outputs are compared where the peer computes the same thing. The start of training on N cells runs
in a process of its own for each side, which tells its memory.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))
from kernels_rows import NOTES, ROWS, Compared
from kernels_start import STEPS, start_of_training
from machine import describe

HERE = Path(__file__).parent
REPEATS, SECONDS = 5, 0.4  # of a measurement, at least; the fastest counts
HEADER = ("kernel", "ours, ms", "peer", "peer, ms", "ratio", "goal", "", "outputs", "floor, ms")


@dataclass(frozen=True)
class Result:
    """A row measured: CPU milliseconds of both, how many times faster ours is, and what was to be reached."""

    name: str
    peer: str
    ours_ms: float
    peer_ms: float
    goal: float
    outputs: str
    floor_ms: float | None

    @property
    def ratio(self) -> float:
        return self.peer_ms / max(self.ours_ms, 1e-9)

    @property
    def met(self) -> bool:
        return self.ratio >= self.goal


@click.command()
@click.option("--only", multiple=True, help="Rows whose name holds this.")
@click.option("--cells", default=1_600_000, show_default=True, help="Cells of the data set whose training starts.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, write nothing.")
@click.option("--step", type=click.Choice(list(STEPS)), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(only: Sequence[str], cells: int, as_json: bool, step: str | None, folder: Path | None) -> None:
    """Measure, and write the table when all rows were measured."""
    if step is not None:
        assert folder is not None
        print(json.dumps(_used(lambda: STEPS[step](folder))))
        return
    results = list(_measured(only, cells))
    if as_json:
        print(json.dumps([{**asdict(row), "ratio": row.ratio, "met": row.met} for row in results], indent=1))
        return
    text = _text(results)
    if not only:
        (HERE / "kernels.md").write_text(text)
    print(text)


def _measured(only: Sequence[str], cells: int) -> Iterator[Result]:
    def wanted(name: str) -> bool:
        return not only or any(word in name for word in only)

    for name, make in ROWS.items():
        if wanted(name):
            found = make()
            if isinstance(found, str):
                print(f"{name}: skipped, {found}", file=sys.stderr)
            else:
                yield _result(name, found)
    if any(wanted(name) for name in start_of_training([])):
        with tempfile.TemporaryDirectory() as made:
            runs = [_in_a_process(step, Path(made), cells) for step in ("write", *list(STEPS)[1:])]
        for name, (peer, ours, theirs, goal) in start_of_training(runs[1:]).items():
            if wanted(name):
                yield Result(name, peer, 1000 * ours, 1000 * theirs, goal, "not the same", None)


def _result(name: str, found: Compared) -> Result:
    floor = None if found.floor is None else _milliseconds(found.floor)
    ours, theirs = _milliseconds(found.ours), found.times * _milliseconds(found.peer)
    row = Result(name, found.peer_name, ours, theirs, found.goal, found.outputs(), floor)
    print(f"{name}: {ours:.3f} ms, {found.peer_name} {theirs:.3f} ms, {row.ratio:.1f}x", file=sys.stderr)
    return row


def _milliseconds(run: Callable[[], Any]) -> float:
    """CPU time of one call, the fastest of some, of two where a call takes long: the first may compile."""
    spent = [_cpu(run), _cpu(run)]
    if spent[1] < SECONDS:
        while len(spent) < REPEATS or (sum(spent) < SECONDS and len(spent) < 100 * REPEATS):
            spent.append(_cpu(run))
    return 1000 * min(spent)


def _cpu(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def _in_a_process(step: str, folder: Path, cells: int) -> dict[str, float]:
    (folder / "cells").write_text(str(cells))
    command = [sys.executable, __file__, f"--step={step}", f"--folder={folder}"]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print(f"{step}: {found}", file=sys.stderr)
    return found


def _used(step: Callable[[], Callable[[], Any]]) -> dict[str, float]:
    """CPU seconds, and MB that the peak grew, of what a step returns; what it does itself is the warming up."""
    run = step()
    before = _peak_mb()
    seconds = _cpu(run)
    return {"seconds": seconds, "memory": _peak_mb() - before}


def _peak_mb() -> float:
    """The peak of this process alone where the system tells it; `getrusage` counts the parent's as well."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _text(results: Sequence[Result]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [HEADER, ["---"] * len(HEADER), *map(_line, results)]]
    notes = [f"- **{row.name}**: {NOTES[row.name]}" for row in results if not row.met and row.name in NOTES]
    missed = ["", "What limits the rows that miss their goal, and what was tried:", "", *notes] if notes else []
    return f"""# Kernels beside their peers

{describe()}. CPU milliseconds on one thread, the fastest of several calls in one process; a ratio is peer / ours.
Written by `benchmarks/kernels.py`.

{chr(10).join([*lines, *missed])}
"""


def _line(row: Result) -> list[str]:
    floor = "" if row.floor_ms is None else f"{row.floor_ms:.3f}"
    goal = f"{row.goal:g}x"
    return [
        row.name,
        f"{row.ours_ms:.3f}",
        row.peer,
        f"{row.peer_ms:.3f}",
        f"{row.ratio:.1f}x" if row.ratio >= 1 else f"{row.ratio:.2f}x",
        goal,
        "" if row.met else "missed",
        row.outputs,
        floor,
    ]


if __name__ == "__main__":
    main()
