"""Writes the curve of a training while it runs, so that others can follow it; the whole one is written at its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from cellsemi.models.model_files import LIVE_FILE, LiveRow, read_live
from cellsemi.models.training.checkpoint import Curves


class LiveCurve:
    """LIVE_FILE in the folder of a fit: a JSON line for each step that it is told of, about one in a second.

    It is a view and no record: where it cannot be written the training goes on without.
    """

    def __init__(self, folder: Path, steps: int, resumed_at: int) -> None:
        self._path = folder / LIVE_FILE
        self._steps = steps
        self._told = {"steps": 0, "validation": 0, "usage": 0}  # of each, the last step that was written
        kept = [row for row in read_live(folder) if row.step <= resumed_at]
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            self._path.write_text("".join(self._line(row.step, row.metrics) for row in kept), encoding="utf-8")

    def write(self, curves: Curves) -> None:
        """Write what is new: the last step, and each measurement since the last call."""
        rows = list(self._new(curves))
        if rows:
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
                file.write("".join(self._line(*row) for row in rows))

    def _new(self, curves: Curves) -> Iterator[tuple[int, Mapping[str, float | None]]]:
        for kind, records in (
            ("steps", curves.records[-1:]),
            ("validation", curves.validation),
            ("usage", curves.usage),
        ):
            for record in records:
                if record.step > self._told[kind]:
                    self._told[kind] = record.step
                    prefix = "validation_" if kind == "validation" else ""
                    columns = {name: value for name, value in record.to_row().items() if name != "step"}
                    yield record.step, {f"{prefix}{name}": value for name, value in columns.items()}

    def _line(self, step: int, metrics: Mapping[str, float | None]) -> str:
        known = {name: value for name, value in metrics.items() if value is not None}
        return LiveRow(step=step, steps=self._steps, metrics=known).model_dump_json() + "\n"
