"""Reads what the training of a student recorded over its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cellsemi.rounds.store import files

Floats = NDArray[np.float64]
POINTS = 200  # of a line, at most


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A value over the steps, both float64 (n,)."""

    steps: Floats
    values: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """The curves of one student. What its family does not record is None.

    `loss` and `grad_norm` are medians of neighbouring steps, where there are many; `validation` is the loss on fixed
    crops of validation images. `seconds` of training, `memory_mb` of its process and `device_memory_mb`, the most that
    it held on a GPU.
    """

    round: int
    model: str
    loss: Line | None = None
    validation: Line | None = None
    lr: Line | None = None
    grad_norm: Line | None = None
    seconds: Line | None = None
    memory_mb: Line | None = None
    device_memory_mb: Line | None = None


def read_curves(
    round: int, model: str, loss: Path, validation: Path, usage: Sequence[Mapping[str, float | None]]
) -> Curves:
    """The curves of a student from its two tables and the rows of its usage, as far as they are there."""
    steps, used = _table(loss), _columns(usage)
    return Curves(
        round,
        model,
        loss=_line(steps, "loss", np.median),
        validation=_line(_table(validation), "loss", np.median),
        lr=_line(steps, "lr", np.mean),
        grad_norm=_line(steps, "grad_norm", np.median),
        seconds=_line(used, "seconds", np.max),
        memory_mb=_line(used, "memory_mb", np.max),
        device_memory_mb=_line(used, "device_memory_mb", np.max),
    )


def _table(path: Path) -> dict[str, Floats]:
    if not path.is_file():
        return {}
    table = pq.read_table(files.local(path))
    return {name: table[name].to_numpy().astype(np.float64) for name in table.column_names}


def _columns(rows: Sequence[Mapping[str, float | None]]) -> dict[str, Floats]:
    """The columns that every row has a value in."""
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    return {name: np.array(values, np.float64) for name, values in columns.items() if None not in values}


def _line(table: Mapping[str, Floats], name: str, of: Callable[[Floats], np.float64]) -> Line | None:
    return thinned(Line(table["step"], table[name]), of) if name in table and len(table[name]) else None


def thinned(line: Line, of: Callable[[Floats], np.float64], most: int = POINTS) -> Line:
    """A line of at most `most` points, each `of` the values of as many neighbours, at the last of their steps."""
    if len(line.steps) <= most:
        return line
    parts = np.array_split(np.arange(len(line.steps)), most)
    return Line(np.array([line.steps[part[-1]] for part in parts]), np.array([of(line.values[part]) for part in parts]))
