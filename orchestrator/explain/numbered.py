"""Draws cells with their numbers over the image, large enough to be read; a large image becomes several pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.colours import INK, PAPER, Colour
from cellsemi.rounds.drawing import RGB, draw_cells

CELL_PX = 44  # side that a cell of the usual size is drawn with, so that its number fits
PAGE_PX = 1400  # longer side of a page, at most
PAGES = 6
USUAL = 2 / 3  # quantile of the areas that is the usual size: specks are many, and no cells
FONT_PX, LEGEND_PX, GAP_PX = 15, 30, 12

Area = tuple[int, int, int, int]  # x0, y0, x1, y1


@dataclass(frozen=True, slots=True)
class Page:
    """A PNG that shows `area` of the image, `zoom` times as large, with so many cells of the image on it.

    `unnumbered` of those that are drawn have no number, since it would hide another.
    """

    content: bytes
    area: Area
    zoom: float
    cells: int
    unnumbered: int


@dataclass(frozen=True, slots=True, eq=False)
class Numbered:
    """Cells over their image, `ground` uint8 (H, W, 3): each has a number, and a kind that says its colour."""

    ground: RGB
    cells: Instances
    numbers: Sequence[int]
    kinds: Sequence[str]
    colours: Mapping[str, Colour]

    def pages(self) -> tuple[list[Page], int]:
        """The pages, and how many cells are on none: of several pages the PAGES with most cells, in reading order."""
        cells = self.cells
        zoom = _zoom(cells)
        side = max(1, round(PAGE_PX / zoom))
        centres = (cells.bbox[:, :2] + cells.bbox[:, 2:]) / 2
        areas = _areas(cells.height, cells.width, side)
        counts = [int(_inside(centres, area).sum()) for area in areas]
        best = sorted(sorted(range(len(areas)), key=lambda i: -counts[i])[:PAGES])
        pages = [self._page(areas[i], zoom, counts[i]) for i in best]
        return pages, len(cells) - sum(page.cells for page in pages)

    def _page(self, area: Area, zoom: float, count: int) -> Page:
        """The page of a part that holds so many cells."""
        x0, y0, x1, y1 = area
        cells = self.cells
        touches = (cells.bbox[:, :2] < (x1, y1)).all(axis=1) & (cells.bbox[:, 2:] > (x0, y0)).all(axis=1)
        index = np.flatnonzero(touches).tolist()
        own = cells.select(index)
        size = max(1, round((x1 - x0) * zoom)), max(1, round((y1 - y0) * zoom))
        canvas = np.array(Image.fromarray(self.ground[y0:y1, x0:x1]).resize(size, Image.Resampling.BICUBIC))
        labels = masks.to_label_map(own)[y0:y1, x0:x1]
        labels = np.array(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
        draw_cells(canvas, labels, own, [self.colours[self.kinds[i]] for i in index], thick=True)
        picture = Image.new("RGB", (size[0], size[1] + LEGEND_PX), PAPER)
        picture.paste(Image.fromarray(canvas), (0, 0))
        draw = ImageDraw.Draw(picture)
        unnumbered = _write_numbers(draw, labels, [self.numbers[i] for i in index])
        _write_legend(draw, self.kinds, self.colours, size[1])
        buffer = BytesIO()
        picture.save(buffer, "PNG")
        return Page(buffer.getvalue(), area, zoom, count, unnumbered)


def _zoom(cells: Instances) -> float:
    """How many pixels of a page a pixel of the image gets; small images are enlarged to half a page."""
    longest = max(cells.height, cells.width)
    usual = float(np.sqrt(np.quantile(cells.area, USUAL))) if len(cells) else CELL_PX
    wanted = max(CELL_PX / max(usual, 1.0), PAGE_PX / 2 / longest)
    return min(wanted, 12.0) if wanted > 1 else max(wanted, PAGE_PX / longest, 0.25) if longest > PAGE_PX else 1.0


def _areas(height: int, width: int, side: int) -> list[Area]:
    """Parts of an image of at most `side` pixels, of nearly one size, row by row."""
    rows, columns = -(-height // side), -(-width // side)
    ys = [round(height * i / rows) for i in range(rows + 1)]
    xs = [round(width * i / columns) for i in range(columns + 1)]
    return [(xs[j], ys[i], xs[j + 1], ys[i + 1]) for i in range(rows) for j in range(columns)]


def _inside(centres: NDArray[np.float64], area: Area) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = area
    inside = (centres >= (x0, y0)) & (centres < (x1, y1))
    return np.asarray(inside.all(axis=1), bool)


def _write_numbers(draw: ImageDraw.ImageDraw, labels: NDArray[np.int32], numbers: Sequence[int]) -> int:
    """Write the number of each cell in the middle of what is seen of it, white with a dark rim, the largest cell first.

    Returns how many are not written, since they would hide another.
    """
    font = ImageFont.load_default(FONT_PX)
    y, x = np.nonzero(labels)
    own = labels[y, x]
    count = np.bincount(own, minlength=len(numbers) + 1)
    middle = [np.bincount(own, axis, len(numbers) + 1) / np.maximum(count, 1) for axis in (x, y)]
    taken = np.zeros((0, 4))
    left_out = 0
    for i in (1 + np.argsort(-count[1:], kind="stable")).tolist():
        if not count[i]:
            continue
        place, text = (float(middle[0][i]), float(middle[1][i])), str(numbers[i - 1])
        box = np.array(draw.textbbox(place, text, font, "mm"))
        if ((taken[:, :2] < box[2:]) & (taken[:, 2:] > box[:2])).all(axis=1).any():
            left_out += 1
            continue
        taken = np.vstack([taken, box])
        draw.text(place, text, (255, 255, 255), font, "mm", stroke_width=2, stroke_fill=(0, 0, 0))
    return left_out


def _write_legend(draw: ImageDraw.ImageDraw, kinds: Sequence[str], colours: Mapping[str, Colour], y: int) -> None:
    """What the colours stand for, and how many of each there are in the image."""
    font, x = ImageFont.load_default(FONT_PX), float(GAP_PX)
    for kind, colour in colours.items():
        text = f"{kind}: {list(kinds).count(kind)}"
        draw.rectangle((x, y + 8, x + 14, y + 22), fill=colour)
        draw.text((x + 20, y + 15), text, INK, font, "lm")
        x += 20 + draw.textlength(text, font) + 2 * GAP_PX
