"""Measures what a move of a slider costs in the app: cells are filtered and drawn, and the picture is encoded (app.md).

python benchmarks/app.py [--cells 529] [--side 1024]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from machine import describe

from cellsemi.orchestrator.app.cells_tab import Shown, draw
from cellsemi.orchestrator.app.found import Found
from cellsemi.orchestrator.app.pictures import Pictures
from cellsemi.orchestrator.app.view import View
from cellsemi.orchestrator.explain.reasons import CellRow
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.drawing import cell_colours
from cellsemi.rounds.store.schemas import ImageRecord

MOVES = 41


def many_cells(count: int, side: int) -> Found:
    """An image of so many ellipses, as if a model had found them with scores by chance."""
    rng = np.random.default_rng(0)
    across = int(np.ceil(np.sqrt(count)))
    step = side / across
    labels = np.zeros((side, side), np.int32)
    for i in range(count):
        middle = round((i % across + 0.5) * step), round((i // across + 0.5) * step)
        axes = [int(each) for each in rng.uniform(0.2, 0.45, 2) * step]
        cv2.ellipse(labels, middle, axes, int(rng.integers(180)), 0, 360, i + 1, -1)
    cells = masks.from_label_map(labels, score=rng.uniform(0, 1, count))
    rows = [CellRow(i + 1, True, "", "cell", 0.0, 0.0, 0, 1, 1, 1.0, "", 0, 0, None) for i in range(count)]
    return Found(
        title="a model",
        record=ImageRecord("image", side, side, ""),
        pixels=labels,
        view=View.of(np.full((side, side, 3), 90, np.uint8)),
        classes=("cell",),
        cells=cells,
        rows=tuple(rows),
        free=np.ones(count, bool),
        colours=tuple(cell_colours(cells, ("cell",), {})),
        start=Cutoffs((0.0,), (0,)),
        notes=(),
    )


def moves(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Wall seconds and processor seconds of MOVES moves of a slider, after one that warms up."""
    shown = Shown(found=many_cells(count, side))
    seconds, busy = [], []
    with tempfile.TemporaryDirectory() as folder:
        for score in (0.5, *np.linspace(0, 1, MOVES)):
            began, used = time.perf_counter(), time.process_time()
            picture, _, _ = draw(shown, Cutoffs((float(score),), (0,)), False)
            Pictures(Path(folder)).write(picture)
            seconds.append(time.perf_counter() - began)
            busy.append(time.process_time() - used)
    return np.array(seconds[1:]), np.array(busy[1:])


def main(count: int, side: int) -> None:
    """Write and print the table."""
    seconds, busy = moves(count, side)
    lines = [
        f"# A move of a slider in the app: {count} cells, {side} x {side} pixels",
        "",
        f"{describe()}",
        "",
        f"| of {MOVES} moves | ms | ms of the processor |",
        "|---|---|---|",
        f"| median | {1e3 * np.median(seconds):.0f} | {1e3 * np.median(busy):.0f} |",
        f"| slowest | {1e3 * seconds.max():.0f} | {1e3 * busy.max():.0f} |",
    ]
    text = "\n".join(lines) + "\n"
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=529)
    parser.add_argument("--side", type=int, default=1024)
    arguments = parser.parse_args()
    main(arguments.cells, arguments.side)
