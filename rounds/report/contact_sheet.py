"""Draws a sheet of annotated images, each with the outlines of its cells.

Colours are by class where there are several, else such that neighbouring cells differ. The palette is that
of Okabe and Ito (2008), which colour-blind people can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.colours import GREY, INK, PALETTE, PAPER, Colour
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.schemas import ImageRecord

PANEL_PX = 480  # side of the square that an image is drawn in


WINDOW_PX = 960  # of a larger image only so much is shown, where its cells are


COLUMNS = 3


GAP_PX, TITLE_PX, LEGEND_PX = 10, 40, 26


HATCH_PX = 6  # distance of the stripes over ignored cells


NEAR_PX = 4  # cells whose boxes are nearer than this get different colours


RGB = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Panel:
    """One image of the sheet: its cells, `class_id` an index of `classes` (one name where there is one class).

    `window` (rows, columns) is the part of the image to show; None: where its cells are.
    """

    record: ImageRecord
    cells: Instances
    classes: tuple[str, ...]
    split: str
    window: tuple[slice, slice] | None = None


def contact_sheet(panels: Sequence[Panel], in_row: int = COLUMNS) -> bytes:
    """The PNG of a sheet with all panels, `in_row` in a row; the same panels give the same bytes.

    Raises ImageError when an image cannot be decoded, ValueError when there is no panel.
    """
    if not panels:
        raise ValueError("expected at least one panel, got none")
    names = sorted({panel.classes[i] for panel in panels for i in set(panel.cells.class_id.tolist())})
    colour_of = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)} if len(names) > 1 else {}
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
    labels = masks.to_label_map(cells)[window]
    picture = _scaled(pixels[window], record.low or 0.0, record.high or 0.0)
    factor = PANEL_PX / max(labels.shape)
    size = max(1, round(labels.shape[1] * factor)), max(1, round(labels.shape[0] * factor))
    resample = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX
    canvas = np.array(Image.fromarray(picture).resize(size, resample))
    labels = np.array(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    ignored = np.array([False, *(state == "ignored" for state in cells.state)])
    colours = np.array([(0, 0, 0), *_colours(panel, colour_of)], np.uint8)
    line = _outlines(labels)
    if factor > 1.5:  # there is room for two pixels
        line |= _outlines(np.where(line, 0, labels))
    stripes = ignored[labels] & ((np.add.outer(*map(np.arange, labels.shape)) % HATCH_PX) == 0)
    canvas[stripes] = GREY
    canvas[line] = colours[labels[line]]
    return canvas


def _window(cells: Instances) -> tuple[slice, slice]:
    """The whole image, or the WINDOW_PX of it around the middle of its cells."""
    sides = []
    for axis, size in ((1, cells.height), (0, cells.width)):
        length = min(size, WINDOW_PX)
        middle = float(np.median(cells.bbox[:, axis] + cells.bbox[:, axis + 2])) / 2 if len(cells) else size / 2
        start = int(np.clip(middle - length / 2, 0, size - length))
        sides.append(slice(start, start + length))
    return sides[0], sides[1]


def _scaled(pixels: NDArray[np.generic], low: float, high: float) -> RGB:
    """uint8 (h, w, 3): `low` black, `high` white; colour keeps its hue."""
    span = high - low if high > low else 1.0
    shown = np.clip((pixels.astype(np.float32) - low) / span, 0, 1) * 255
    return np.ascontiguousarray(
        np.broadcast_to(shown[..., None] if shown.ndim == 2 else shown, (*shown.shape[:2], 3)).astype(np.uint8)
    )


def _outlines(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """bool (h, w): pixels of a cell that touch another cell, the background or the edge of the picture."""
    padded = np.pad(labels, 1)
    inner = padded[1:-1, 1:-1]
    beside = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    line = np.zeros(labels.shape, bool)
    for other in beside:
        line |= inner != other
    return line & (inner > 0)


def _colours(panel: Panel, colour_of: dict[str, Colour]) -> list[Colour]:
    """A colour for each cell: grey when it is ignored, that of its class, or one its neighbours do not have."""
    cells = panel.cells
    if colour_of:
        found = [colour_of[panel.classes[i]] for i in cells.class_id.tolist()]
    else:
        found = [PALETTE[i] for i in _apart(cells.bbox)]
    return [GREY if state == "ignored" else colour for state, colour in zip(cells.state, found, strict=True)]


def _apart(boxes: NDArray[np.int32]) -> list[int]:
    """Places in the palette such that cells whose boxes meet differ, as far as the palette goes."""
    chosen: list[int] = []
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        before = boxes[:i]
        meets = (before[:, 0] < x1 + NEAR_PX) & (before[:, 2] > x0 - NEAR_PX)
        meets &= (before[:, 1] < y1 + NEAR_PX) & (before[:, 3] > y0 - NEAR_PX)
        taken = [chosen[j] for j in np.flatnonzero(meets)]
        order = [(i + step) % len(PALETTE) for step in range(len(PALETTE))]
        chosen.append(min(order, key=taken.count))
    return chosen


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
