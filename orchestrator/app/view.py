"""Draws cells over their image at the size of a screen, and says which cell lies under a point of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.colours import Colour
from cellsemi.rounds.drawing import RGB, draw_cells

LEAST_PX, MOST_PX = 640, 1024  # longer side of a picture: small images are enlarged, large ones made smaller
FILL = 0.3  # how much of its colour lies over a cell
CHOSEN: Colour = (255, 255, 255)  # outline of the cell that is selected


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """An image of `height` x `width` pixels at the size it is shown with: `ground` uint8 (h, w, 3)."""

    ground: RGB
    height: int
    width: int

    @classmethod
    def of(cls, ground: RGB) -> Self:
        """From the whole image, uint8 (H, W, 3)."""
        import cv2

        height, width = ground.shape[:2]
        longest = max(height, width)
        factor = min(max(longest, LEAST_PX), MOST_PX) / longest
        size = max(1, round(width * factor)), max(1, round(height * factor))
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        return cls(np.asarray(cv2.resize(ground, size, interpolation=method), np.uint8), height, width)

    def draw(self, layers: Sequence[Layer]) -> RGB:
        """The picture with the layers over it, later ones above."""
        canvas = self.ground.copy()
        for layer in layers:
            if len(layer.cells):
                self._draw_layer(canvas, layer)
        return canvas

    def pixel(self, x: float, y: float) -> tuple[int, int]:
        """(x, y) of the pixel of the image under a point of the picture."""
        h, w = self.ground.shape[:2]
        return (
            min(max(int(x * self.width / w), 0), self.width - 1),
            min(max(int(y * self.height / h), 0), self.height - 1),
        )

    def _draw_layer(self, canvas: RGB, layer: Layer) -> None:
        import cv2

        labels = self._shown(masks.to_label_map(layer.cells))
        if layer.fill:  # in OpenCV: numpy takes most of a tenth of a second for 500 cells, and a slider waits for it
            colours = np.take(np.array([(0, 0, 0), *layer.colours], np.uint8), labels, axis=0)
            blended = cv2.addWeighted(canvas, 1 - layer.fill, colours, layer.fill, 0.0)
            cv2.copyTo(blended, (labels > 0).view(np.uint8), canvas)
        draw_cells(canvas, labels, layer.cells, layer.colours, thick=True)

    def _shown(self, labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """A label map at the size of the picture."""
        h, w = self.ground.shape[:2]
        if labels.shape == (h, w):
            return labels
        rows = np.minimum((np.arange(h) + 0.5) * self.height / h, self.height - 1).astype(np.intp)
        columns = np.minimum((np.arange(w) + 0.5) * self.width / w, self.width - 1).astype(np.intp)
        return np.ascontiguousarray(labels[rows[:, None], columns])


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Cells of an image with a colour each; `fill`: how much of it lies over the cell."""

    cells: Instances
    colours: Sequence[Colour]
    fill: float = FILL


def in_one_colour(cells: Instances, colour: Colour, fill: float = FILL) -> Layer:
    """A layer whose cells have one colour."""
    return Layer(cells, [colour] * len(cells), fill)


def cell_at(cells: Instances, index: Sequence[int] | NDArray[Any], x: int, y: int) -> int | None:
    """Which of the cells `index` lies under a pixel: of several the smallest; None where there is none."""
    near = [i for i in np.asarray(index, np.int64).tolist() if _in_box(cells.bbox[i].tolist(), x, y)]
    found = [i for i, (crop, x0, y0) in zip(near, masks.crops(cells.select(near)), strict=True) if crop[y - y0, x - x0]]
    return min(found, key=lambda i: int(cells.area[i]), default=None)


def _in_box(box: Sequence[int], x: int, y: int) -> bool:
    return box[0] <= x < box[2] and box[1] <= y < box[3]
