"""Draws the outlines of cells over their image.

Colours are by class where there are several, else such that neighbouring cells differ. The palette is that
of Okabe and Ito (2008), which colour-blind people can tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.colours import GREY, PALETTE, Colour

HATCH_PX = 6  # distance of the stripes over ignored cells
NEAR_PX = 4  # cells whose boxes are nearer than this get different colours

RGB = NDArray[np.uint8]


def scaled(pixels: NDArray[np.generic], low: float, high: float) -> RGB:
    """uint8 (h, w, 3): `low` black, `high` white; colour keeps its hue."""
    span = high - low if high > low else 1.0
    shown = np.clip((pixels.astype(np.float32) - low) / span, 0, 1) * 255
    return np.ascontiguousarray(
        np.broadcast_to(shown[..., None] if shown.ndim == 2 else shown, (*shown.shape[:2], 3)).astype(np.uint8)
    )


def overlay(picture: RGB, cells: Instances, classes: Sequence[str]) -> RGB:
    """A copy of uint8 (H, W, 3) with the outlines of the image's cells; `classes` name all that there may be."""
    canvas = picture.copy()
    by_class = class_colours(classes) if len(classes) > 1 else {}
    draw_cells(canvas, masks.to_label_map(cells), cells, cell_colours(cells, classes, by_class))
    return canvas


def draw_cells(
    canvas: RGB, labels: NDArray[np.int32], cells: Instances, colours: Sequence[Colour], thick: bool = False
) -> None:
    """Draw into uint8 (h, w, 3) the outlines of the label map (h, w) of `cells`; ignored cells get stripes."""
    table = np.array([(0, 0, 0), *colours], np.uint8)
    line = outlines(labels)
    if thick:
        line |= outlines(np.where(line, 0, labels))
    ignored = np.array([False, *(state == "ignored" for state in cells.state)])
    if ignored.any():
        stripes = ignored[labels] & ((np.add.outer(*map(np.arange, labels.shape)) % HATCH_PX) == 0)
        canvas[stripes] = GREY
    canvas[line] = table[labels[line]]


def outlines(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """bool (h, w): pixels of a cell that touch another cell, the background or the edge of the picture."""
    padded = np.pad(labels, 1)
    inner = padded[1:-1, 1:-1]
    beside = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    line = np.zeros(labels.shape, bool)
    for other in beside:
        line |= inner != other
    return line & (inner > 0)


def class_colours(classes: Sequence[str]) -> dict[str, Colour]:
    """A colour for each class, in their order."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(classes)}


def cell_colours(cells: Instances, classes: Sequence[str], by_class: Mapping[str, Colour]) -> list[Colour]:
    """A colour for each cell: grey when it is ignored, that of its class, or one its neighbours do not have."""
    if by_class:
        found = [by_class[classes[i]] for i in cells.class_id.tolist()]
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
