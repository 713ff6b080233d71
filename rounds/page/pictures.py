"""Draws images with the outlines of cells, and encodes them for the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.colours import GREY, Colour
from cellsemi.rounds.drawing import HATCH_PX, RGB, outlines, scaled
from cellsemi.rounds.page.blocks import Key, Picture
from cellsemi.rounds.report.contact_sheet import Window, touches, window_around
from cellsemi.rounds.store.image_codec import decode_image, intensity_range
from cellsemi.rounds.store.schemas import ImageRecord

WHOLE_PX, CROP_PX = 400, 160  # the longer side of a picture of an image, and of one of a cell
MOST_BYTES = 55_000  # of a picture: what is larger is encoded anew, worse
QUALITIES = (80, 65, 50, 35, 20)
DASH_PX = 5
THICK_FROM_PX = 150  # cells of this area in the picture have an outline of two pixels
LEAST_PX = 48  # the side of the part that a picture of a cell shows


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Cells that are drawn in one colour; `dashed`: with a broken line. `striped` cells are filled with stripes."""

    cells: Instances
    colour: Colour
    words: str
    dashed: bool = False
    striped: bool = False

    def key(self) -> Key:
        """What the colour stands for."""
        return Key(f"rgb{self.colour}".replace(" ", ""), self.words, self.dashed)


@dataclass(frozen=True, slots=True)
class Caption:
    """What stands below a picture, and what it shows in words."""

    title: str
    words: str
    alt: str


def whole(record: ImageRecord, layers: Sequence[Layer], caption: Caption) -> Picture:
    """The whole image with the layers, later ones above. Raises ImageError when it cannot be decoded."""
    window = slice(0, record.height), slice(0, record.width)
    return _encoded(_drawn(record, window, layers, WHOLE_PX), caption)


def crop(record: ImageRecord, bbox: Sequence[int], layers: Sequence[Layer], caption: Caption) -> Picture:
    """The part of the image around a box (x0, y0, x1, y1) with the layers; ImageError as `whole`."""
    return _encoded(_drawn(record, window_around(record, bbox, LEAST_PX), layers, CROP_PX), caption)


def _drawn(record: ImageRecord, window: Window, layers: Sequence[Layer], side: int) -> RGB:
    assert record.image is not None, "the images of a run hold their pixels"
    pixels = decode_image(record.image, record.source, record.height * record.width)
    low, high = intensity_range(pixels) if record.low is None or record.high is None else (record.low, record.high)
    part = scaled(pixels[window], low, high)
    factor = side / max(part.shape[:2])
    size = max(1, round(part.shape[1] * factor)), max(1, round(part.shape[0] * factor))
    resample = Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX
    canvas = np.array(Image.fromarray(part).resize(size, resample))
    for layer in layers:
        _draw_layer(canvas, layer, window, size)
    return canvas


def _draw_layer(canvas: RGB, layer: Layer, window: Window, size: tuple[int, int]) -> None:
    near = layer.cells.select(np.flatnonzero(touches(layer.cells, window)))
    if not len(near):
        return
    labels = np.array(Image.fromarray(masks.to_label_map(near)[window]).resize(size, Image.Resampling.NEAREST))
    line = outlines(labels)
    if np.median(near.area) * (size[0] / (window[1].stop - window[1].start)) ** 2 >= THICK_FROM_PX:
        line |= outlines(np.where(line, 0, labels))
    diagonal = np.add.outer(*map(np.arange, labels.shape))
    if layer.striped:
        canvas[(labels > 0) & (diagonal % HATCH_PX == 0)] = layer.colour
    if layer.dashed:
        line &= diagonal // DASH_PX % 2 == 0
    canvas[line] = layer.colour


def ignored(cells: Instances, words: str = "to be ignored") -> Layer:
    """The layer of cells that are to be ignored."""
    return Layer(cells, GREY, words, striped=True)


def _encoded(canvas: NDArray[np.uint8], caption: Caption) -> Picture:
    picture = Image.fromarray(canvas)
    for quality in QUALITIES:
        buffer = BytesIO()
        picture.save(buffer, "WEBP", quality=quality, method=4)
        if buffer.tell() <= MOST_BYTES:
            break
    uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(uri, picture.width, picture.height, caption.title, caption.words, caption.alt)
