"""The table of gpu.py."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from machine import describe


@dataclass(slots=True)
class Row:
    """What was found for one family; None: not measured."""

    family: str
    failed: list[str] = field(default_factory=list)
    skipped: str | None = None
    loss_off: float | None = None  # first loss, |device - CPU| / CPU
    matched: float | None = None  # share of masks that the CPU finds as well, at IoU > .5
    step_s: float | None = None  # of the product
    bare_step_s: float | None = None  # on a batch that lies on the device
    train_busy: float | None = None
    images_per_s: float | None = None  # of the product, from shard to shard
    bare_images_per_s: float | None = None
    label_busy: float | None = None
    cells: int | None = None  # in an image
    peak_mb: int | None = None
    seconds: float = 0.0


COLUMNS = (
    "family", "ms a step", "bare", "bare / product", "busy", "images/s", "bare", "product / bare", "busy", "cells",
    "peak MB", "first loss off", "masks as on the CPU",
)  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for row in rows:
        if row.skipped is not None or row.step_s is None:
            lines.append(f"| {row.family} | {row.skipped or 'failed'} |" + " |" * (len(COLUMNS) - 2))
            continue
        cells = [
            row.family,
            _number(row.step_s, 1e3, ".1f"),
            _number(row.bare_step_s, 1e3, ".1f"),
            _ratio(row.bare_step_s, row.step_s),
            _number(row.train_busy, 100, ".0f", " %"),
            _number(row.images_per_s, 1, ".3g"),
            _number(row.bare_images_per_s, 1, ".3g"),
            _ratio(row.images_per_s, row.bare_images_per_s),
            _number(row.label_busy, 100, ".0f", " %"),
            _number(row.cells, 1, ".0f"),
            _number(row.peak_mb, 1, ".0f"),
            _number(row.loss_off, 1, ".1e"),
            _number(row.matched, 100, ".1f", " %"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _number(value: float | None, factor: float, form: str, unit: str = "") -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value * factor:{form}}{unit}"


def _ratio(value: float | None, of: float | None) -> str:
    return "-" if value is None or not of else _number(value / of, 100, ".0f", " %")


def page(rows: Sequence[Row], gpu: str | None, tiny: bool) -> str:
    """The whole page."""
    on = "**not run on CUDA**: on the CPU" if gpu is None else f"on {gpu}"
    small = ", everything tiny: this shows that the script runs, no more" if tiny else ""
    failures = [f"* {row.family}: {each}" for row in rows for each in row.failed]
    return f"""# Every family on a GPU, against its own bare network

{describe(on_gpu=gpu is not None)}. Run {on}{small}.

Written by `benchmarks/gpu.py`. *ms a step*: of a training of the product, and of the same loop on one batch that lies
on the device (*bare*). *images/s*: of a labelling job from shard to shard, 520x704, one view; *bare*: the calls of the
network that it makes, with their inputs on the device. *busy*: share of the time in which a kernel ran, by nvidia-smi.

{table(rows)}

{chr(10).join(failures) or "Nothing failed."}
"""
