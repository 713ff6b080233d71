"""Draws the reliability of scores before and after calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from cellsemi.rounds.colours import INK, PALETTE, PAPER, Colour
from cellsemi.rounds.evaluation.reliability import BINS, Bins, bin_of
from cellsemi.rounds.report.contact_sheet import write

PLOT_PX, PAD_PX = 256, 8  # the diagram, and what is left free around it, so that no point is cut


BARS_PX, BAR_PX = 56, 46  # the part under it with the counts, and its highest bar


LEFT_PX, TITLE_PX, AXIS_PX, GAP_PX = 52, 50, 44, 16


COLUMNS = 4


FINE = 4  # lines are drawn so much larger and then reduced, which smooths them


FONT, LINE_PX = 13, 21  # of ticks and legend; the titles have their own


GRID, FRAME, BEFORE, AFTER = (226, 226, 226), (130, 130, 130), (140, 140, 140), PALETTE[4]


TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


LEGEND = ("scores as they are", "calibrated, on images left out", "as it should be", "bars: predictions")


@dataclass(frozen=True, slots=True)
class Diagram:
    """One model and class: what it is called, the error in words, the bins before and after calibration."""

    title: str
    words: str
    before: Bins
    after: Bins


def picture(diagrams: Sequence[Diagram], in_row: int = COLUMNS) -> bytes:
    """The PNG of all diagrams, up to `in_row` in a row; the same diagrams give the same bytes.

    Above: hit rate over confidence, grey before and blue after calibration. Below: the predictions in each bin.
    ValueError when there is no diagram.
    """
    if not diagrams:
        raise ValueError("expected at least one diagram, got none")
    wide = LEFT_PX + PLOT_PX + GAP_PX
    high = TITLE_PX + PLOT_PX + BARS_PX + AXIS_PX + GAP_PX
    columns, rows = min(in_row, len(diagrams)), -(-len(diagrams) // in_row)
    legend_rows = _legend_rows(columns * wide)
    sheet = Image.new("RGB", (columns * wide + GAP_PX, rows * high + GAP_PX + LINE_PX * len(legend_rows)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, diagram in enumerate(diagrams):
        x, y = i % in_row * wide, GAP_PX + i // in_row * high
        sheet.paste(_plot(diagram), (x + LEFT_PX, y + TITLE_PX))
        _words(draw, diagram, x, y)
    _draw_legend(draw, legend_rows, rows * high + GAP_PX)
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _plot(diagram: Diagram) -> Image.Image:
    """The diagram and the bars without words, PLOT_PX wide and PLOT_PX + BARS_PX high, smooth."""
    side, high = PLOT_PX * FINE, (PLOT_PX + BARS_PX) * FINE
    fine = Image.new("RGB", (side, high), PAPER)
    draw = ImageDraw.Draw(fine)
    for x, y in (place(tick, tick) for tick in TICKS):
        draw.line((0, y * FINE, side, y * FINE), GRID, FINE)
        draw.line((x * FINE, 0, x * FINE, high), GRID, FINE)
    _draw_bars(draw, diagram)
    draw.line([value * FINE for end in (0.0, 1.0) for value in place(end, end)], INK, FINE)
    _draw_curve(draw, diagram.before, BEFORE)
    _draw_curve(draw, diagram.after, AFTER)
    draw.rectangle((0, 0, side - 1, side), outline=FRAME, width=FINE)
    draw.rectangle((0, side, side - 1, high - 1), outline=FRAME, width=FINE)
    return fine.reduce(FINE)


def place(confidence: float, hit_rate: float) -> tuple[float, float]:
    """Where a point lies in a plot: x, y in pixels from its upper left corner."""
    inner = PLOT_PX - 2 * PAD_PX
    return PAD_PX + inner * confidence, PAD_PX + inner * (1 - hit_rate)


def _draw_curve(draw: ImageDraw.ImageDraw, bins: Bins, colour: Colour) -> None:
    points = [(x * FINE, y * FINE) for x, y in (place(found.confidence, found.hit_rate) for found in bins)]
    if len(points) > 1:
        draw.line(points, colour, 5 * FINE // 2, joint="curve")
    radius = 4 * FINE
    for x, y in points:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=PAPER, width=FINE)


def _draw_bars(draw: ImageDraw.ImageDraw, diagram: Diagram) -> None:
    """Two bars a bin, before and after, as high as the share of the largest; the smallest is still seen."""
    bottom, most = (PLOT_PX + BARS_PX) * FINE, _most(diagram)
    for column, (bins, colour) in enumerate(((diagram.before, BEFORE), (diagram.after, AFTER))):
        for found in bins:
            ends = ((bin_of(found) + 0.12 + 0.38 * side) / BINS for side in (column, column + 1))
            left, right = (place(end, 0.0)[0] * FINE for end in ends)
            height = max(1.0, BAR_PX * found.samples / most) * FINE
            draw.rectangle((left, bottom - height, right, bottom), fill=colour)


def _most(diagram: Diagram) -> int:
    return max((found.samples for found in (*diagram.before, *diagram.after)), default=1)


def _words(draw: ImageDraw.ImageDraw, diagram: Diagram, x: int, y: int) -> None:
    font, left, top = ImageFont.load_default(FONT), x + LEFT_PX, y + TITLE_PX
    bottom = top + PLOT_PX + BARS_PX
    for row, text in enumerate((diagram.title, diagram.words)):
        write(draw, text, left, y + row * LINE_PX, INK, PLOT_PX + GAP_PX // 2)
    for tick in TICKS:
        across, down = place(tick, tick)
        draw.text((left - 6, top + down), f"{tick:.1f}", INK, font, anchor="rm")
        draw.text((left + across, bottom + 4), f"{tick:.1f}", INK, font, anchor="ma")
    draw.text((left + PLOT_PX / 2, bottom + 20), "confidence", INK, font, anchor="ma")
    for count, height in ((_most(diagram), BAR_PX), (0, 0)):
        draw.text((left - 6, bottom - height), str(count), INK, font, anchor="rm")
    side = Image.new("L", (PLOT_PX, 18))
    ImageDraw.Draw(side).text((PLOT_PX / 2, 1), "share that is right", 255, font, anchor="ma")
    draw.bitmap((x + 6, top), side.rotate(90, expand=True), INK)


def _legend_rows(width: int) -> list[list[tuple[str, Colour, int]]]:
    """The entries of the legend with their places from the left, in as many rows as the width asks for."""
    font = ImageFont.load_default(FONT)
    rows: list[list[tuple[str, Colour, int]]] = [[]]
    x = LEFT_PX
    for words, colour in zip(LEGEND, (BEFORE, AFTER, INK, PAPER), strict=True):
        taken = 34 + round(font.getlength(words)) + 24
        if rows[-1] and x + taken > width:
            rows.append([])
            x = LEFT_PX
        rows[-1].append((words, colour, x))
        x += taken
    return rows


def _draw_legend(draw: ImageDraw.ImageDraw, rows: list[list[tuple[str, Colour, int]]], y: int) -> None:
    font = ImageFont.load_default(FONT)
    for number, entries in enumerate(rows):
        middle = y + LINE_PX * number + 8
        for words, colour, x in entries:
            draw.line((x, middle, x + 26, middle), colour, 1 if colour == INK else 3)
            draw.text((x + 34, middle), words, INK, font, anchor="lm")
