"""Draws a sheet of annotated images, each with the outlines of its cells."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.colours import GREY, INK, PAPER, Colour
from cellsemi.rounds.drawing import RGB, cell_colours, class_colours, draw_cells, scaled
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.schemas import ImageRecord

PANEL_PX = 480  # side of the square that an image is drawn in


WINDOW_PX = 960  # of a larger image only so much is shown, where its cells are


AROUND = 3  # the picture of a cell shows so many times the larger side of its box


COLUMNS = 3


GAP_PX, TITLE_PX, LEGEND_PX = 10, 40, 26


Window = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True, slots=True)
class Panel:
    """One image of the sheet: its cells, `class_id` an index of `classes` (one name where there is one class).

    `window` (rows, columns) is the part of the image to show; None: where its cells are.
    """

    record: ImageRecord
    cells: Instances
    classes: tuple[str, ...]
    split: str
    window: Window | None = None


def contact_sheet(panels: Sequence[Panel], in_row: int = COLUMNS) -> bytes:
    """The PNG of a sheet with all panels, `in_row` in a row; the same panels give the same bytes.

    Raises ImageError when an image cannot be decoded, ValueError when there is no panel.
    """
    if not panels:
        raise ValueError("expected at least one panel, got none")
    names = sorted({panel.classes[i] for panel in panels for i in set(panel.cells.class_id.tolist())})
    colour_of = class_colours(names) if len(names) > 1 else {}
    legend = _legend(colour_of, panels)
    drawn = [Image.fromarray(_drawn(panel, colour_of)) for panel in panels]
    wide, high = GAP_PX + PANEL_PX, GAP_PX + TITLE_PX + max(picture.height for picture in drawn)
    columns, rows = min(in_row, len(panels)), -(-len(panels) // in_row)
    height = rows * high + GAP_PX + (LEGEND_PX if legend else 0)
    sheet = Image.new("RGB", (columns * wide + GAP_PX, height), PAPER)
    for i, (panel, picture) in enumerate(zip(panels, drawn, strict=True)):
        x, y = GAP_PX + i % in_row * wide, GAP_PX + i // in_row * high
        _draw_title(ImageDraw.Draw(sheet), panel, x, y)
        sheet.paste(picture, (x, y + TITLE_PX))
    _draw_legend(ImageDraw.Draw(sheet), legend, height - LEGEND_PX)
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


# --- one image ----------------------------------------------------------------------------------------


def _drawn(panel: Panel, colour_of: dict[str, Colour]) -> RGB:
    """uint8 (h, w, 3), h and w up to PANEL_PX: the image with the outlines of its cells."""
    record, cells = panel.record, panel.cells
    assert record.image is not None, "the reader gives the encoded image"
    pixels = decode_image(record.image, record.source, record.height * record.width)
    window = panel.window or _window(cells)
    cells = cells.select(np.flatnonzero(touches(cells, window)))
    labels = masks.to_label_map(cells)[window]
    picture = scaled(pixels[window], record.low or 0.0, record.high or 0.0)
    factor = PANEL_PX / max(labels.shape)
    size = max(1, round(labels.shape[1] * factor)), max(1, round(labels.shape[0] * factor))
    resample = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX
    canvas = np.array(Image.fromarray(picture).resize(size, resample))
    labels = np.array(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    colours = cell_colours(cells, panel.classes, colour_of)
    draw_cells(canvas, labels, cells, colours, thick=factor > 1.5)  # there is room for two pixels
    return canvas


def windows(cells: Instances, kinds: Sequence[str], wanted: Collection[str]) -> list[Window]:
    """Parts of an image that together show a cell of every wanted kind; `kinds` is that of each cell.

    One part where that is enough: the whole image, or the WINDOW_PX of it around the middle of its cells.
    """
    if max(cells.height, cells.width) <= WINDOW_PX:
        return [_window(cells)]
    first = {kind: kinds.index(kind) for kind in kinds}
    around = [_window(cells), *(_window(cells.select([i])) for i in first.values())]
    shown = [{kind for kind, inside in zip(kinds, _inside(cells, window), strict=True) if inside} for window in around]
    missing = {kind for kind in wanted if kind in first}
    chosen: list[Window] = []
    while missing or not chosen:
        best = max(range(len(around)), key=lambda i: len(missing & shown[i]))
        chosen.append(around[best])
        missing -= shown[best]
    return chosen


def window_around(record: ImageRecord, bbox: Sequence[int], least_px: int) -> Window:
    """A square around a box (x0, y0, x1, y1), AROUND times as large and at least `least_px`, within the image."""
    x0, y0, x1, y1 = bbox
    side = int(np.clip(AROUND * max(x1 - x0, y1 - y0), least_px, WINDOW_PX))
    return _around((y0 + y1) // 2, side, record.height), _around((x0 + x1) // 2, side, record.width)


def _around(middle: int, side: int, size: int) -> slice:
    """`side` pixels around `middle`, moved to lie within 0 and `size`; all of them where there are fewer."""
    start = max(0, min(middle - side // 2, size - side))
    return slice(start, min(start + side, size))


def touches(cells: Instances, window: Window) -> NDArray[np.bool_]:
    """bool (N,): cells whose box meets the window."""
    rows, columns = window
    low, high = (columns.start, rows.start), (columns.stop, rows.stop)
    return np.asarray(((cells.bbox[:, :2] < high) & (cells.bbox[:, 2:] > low)).all(axis=1), bool)


def _inside(cells: Instances, window: Window) -> list[bool]:
    """Which cells lie in a window, all of them."""
    rows, columns = window
    low, high = (columns.start, rows.start), (columns.stop, rows.stop)
    inside = np.asarray(((cells.bbox[:, :2] >= low) & (cells.bbox[:, 2:] <= high)).all(axis=1), bool)
    return [bool(each) for each in inside]


def _window(cells: Instances) -> Window:
    """The whole image, or the WINDOW_PX of it around the middle of these cells."""
    sides = []
    for axis, size in ((1, cells.height), (0, cells.width)):
        length = min(size, WINDOW_PX)
        middle = float(np.median(cells.bbox[:, axis] + cells.bbox[:, axis + 2])) / 2 if len(cells) else size / 2
        start = int(np.clip(middle - length / 2, 0, size - length))
        sides.append(slice(start, start + length))
    return sides[0], sides[1]


# --- words --------------------------------------------------------------------------------------------


def _draw_title(draw: ImageDraw.ImageDraw, panel: Panel, x: int, y: int) -> None:
    record, ignored = panel.record, len(panel.cells.in_state("ignored"))
    shown = f"{record.width}x{record.height} px, {panel.split}, {len(panel.cells) - ignored} cells"
    shown += f", {ignored} ignored" if ignored else ""
    rows, columns = panel.window or _window(panel.cells)
    part = max(rows.stop - rows.start, columns.stop - columns.start)
    if max(record.height, record.width) > part:
        shown += f" (a part of {part} px)"
    for line, text in enumerate((record.image_id, shown)):
        write(draw, text, x, y + line * 19, INK, PANEL_PX)


def _legend(colour_of: dict[str, Colour], panels: Sequence[Panel]) -> list[tuple[str, Colour]]:
    """What the colours stand for; nothing where they only tell neighbours apart."""
    entries = list(colour_of.items())
    if any("ignored" in panel.cells.state for panel in panels):
        entries.append(("to be ignored", GREY))
    return entries


def _draw_legend(draw: ImageDraw.ImageDraw, legend: Sequence[tuple[str, Colour]], y: int) -> None:
    x = GAP_PX
    for name, colour in legend:
        draw.rectangle((x, y + 4, x + 12, y + 16), fill=colour)
        x += 20 + write(draw, name, x + 18, y, INK, PANEL_PX) + 16


def write(draw: ImageDraw.ImageDraw, text: str, x: int, y: int, colour: Colour, room: int) -> int:
    """Write a line, shortened in its middle to `room` pixels; what the font lacks becomes `?`. Returns its width."""
    font = ImageFont.load_default(15)
    plain = text.encode("latin-1", "replace").decode("latin-1")
    shown, cut = plain, len(plain)
    while draw.textlength(shown, font) > room and cut > 4:
        cut -= 2
        shown = f"{plain[: cut // 2]}...{plain[len(plain) - cut // 2 :]}"
    draw.text((x, y), shown, fill=colour, font=font)
    return int(draw.textlength(shown, font))
