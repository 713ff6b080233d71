"""Draws the reliability of scores before and after calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from cellsemi.rounds.calibration.reliability import BINS, Bins, bin_of
from cellsemi.rounds.colours import PALETTE, Colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
PLOT_INCHES, DPI = 2.9, 110
BEFORE, AFTER, FRAME = (140, 140, 140), PALETTE[4], (130, 130, 130)
LEGEND = ("scores before calibration", "calibrated, on images left out", "perfect calibration")


@dataclass(frozen=True, slots=True)
class Diagram:
    """One model and class: what it is called, the error in words, the bins before and after calibration."""

    title: str
    words: str
    before: Bins
    after: Bins


def picture(diagrams: Sequence[Diagram], in_row: int = COLUMNS) -> bytes:
    """The PNG of all diagrams, up to `in_row` in a row; the same diagrams give the same bytes.

    ValueError when there is no diagram.
    """
    buffer = BytesIO()
    draw(diagrams, in_row).savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def draw(diagrams: Sequence[Diagram], in_row: int = COLUMNS) -> Figure:
    """The figure: for each diagram its curves, and under them the number of predictions in each bin.

    Above: observed frequency over confidence, grey before and blue after calibration. ValueError when there is none.
    """
    if not diagrams:
        raise ValueError("expected at least one diagram, got none")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns, rows = min(in_row, len(diagrams)), -(-len(diagrams) // in_row)
    figure = Figure(figsize=(columns * PLOT_INCHES, rows * PLOT_INCHES * 1.45 + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[3, 1] * rows)
    for i, diagram in enumerate(diagrams):
        row, column = divmod(i, in_row)
        curves = figure.add_subplot(grid[2 * row, column])
        _draw_curves(curves, diagram)
        _draw_counts(figure.add_subplot(grid[2 * row + 1, column], sharex=curves), diagram)
    handles = figure.axes[0].get_lines()
    figure.legend(handles, LEGEND, loc="outside lower center", ncols=min(3, columns), frameon=False, fontsize=8)
    return figure


def _draw_curves(axes: Axes, diagram: Diagram) -> None:
    for bins, colour in ((diagram.before, BEFORE), (diagram.after, AFTER)):
        points = [(found.confidence, found.hit_rate) for found in bins]
        axes.plot(*zip(*points, strict=True) if points else ([], []), "o-", color=_shade(colour), markersize=4)
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="observed frequency (IoU > .5)")
    axes.set_title(f"{_plain(diagram.title)}\n{_plain(diagram.words)}", fontsize=9)
    axes.tick_params(labelbottom=False)
    _finish(axes)


def _draw_counts(axes: Axes, diagram: Diagram) -> None:
    """Two bars a bin, before and after: how many predictions it holds."""
    for column, (bins, colour) in enumerate(((diagram.before, BEFORE), (diagram.after, AFTER))):
        left = [(bin_of(found) + 0.12 + 0.38 * column) / BINS for found in bins]
        axes.bar(left, [found.samples for found in bins], 0.38 / BINS, align="edge", color=_shade(colour))
    axes.set(xlabel="confidence", ylabel="predictions")
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(color=(0.89, 0.89, 0.89), linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)
    for spine in axes.spines.values():
        spine.set_color(_shade(FRAME))


def _shade(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = (value / 255 for value in colour)
    return red, green, blue


def _plain(text: str, most: int = 40) -> str:
    """Text that fits over a plot, with no sign that would start a formula."""
    return (text if len(text) <= most else f"{text[: most - 1]}…").replace("$", r"\$")
