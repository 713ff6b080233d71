"""Numbers over cells: every cell is on a page, or counted as not drawn, whatever the size of the image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cellsemi.orchestrator.explain.numbered import LEGEND_PX, PAGE_PX, PAGES, Numbered
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances

COLOURS = {"kept": (0, 158, 115), "dropped": (213, 94, 0)}


def scattered(height: int, width: int, count: int, side: int) -> Instances:
    rng = np.random.default_rng(0)
    return masks.from_crops(
        height,
        width,
        [
            (np.ones((side, side), bool), int(rng.integers(0, width - side)), int(rng.integers(0, height - side)))
            for _ in range(count)
        ],
    )


def pages_of(cells: Instances) -> tuple[list[np.ndarray], list[int], int]:
    ground = np.full((cells.height, cells.width, 3), 90, np.uint8)
    kinds = ["kept" if i % 2 else "dropped" for i in range(len(cells))]
    pages, left = Numbered(ground, cells, range(1, len(cells) + 1), kinds, COLOURS).pages()
    return [np.array(Image.open(io.BytesIO(page.content))) for page in pages], [page.cells for page in pages], left


@pytest.mark.parametrize(
    ("height", "width", "count", "side"),
    [(40, 60, 5, 8), (64, 64, 0, 8), (3000, 5000, 40, 150), (1200, 900, 200, 9), (5, 900, 3, 4)],
)
def test_every_cell_is_counted_and_no_page_is_too_large(height: int, width: int, count: int, side: int) -> None:
    pictures, counts, left = pages_of(scattered(height, width, count, side))
    assert 1 <= len(pictures) <= PAGES and sum(counts) + left == count
    for picture in pictures:
        assert max(picture.shape[0] - LEGEND_PX, picture.shape[1]) <= PAGE_PX + 1


def test_small_cells_are_drawn_large_enough_for_their_numbers() -> None:
    cells = masks.from_crops(40, 40, [(np.ones((10, 10), bool), 5, 5), (np.ones((10, 10), bool), 25, 20)])
    (picture,), counts, left = pages_of(cells)
    assert counts == [2] and left == 0
    zoom = (picture.shape[0] - LEGEND_PX) / 40
    assert zoom * 10 >= 40
    at = {kind: (picture == colour).all(-1) for kind, colour in COLOURS.items()}
    for kind, x in (("dropped", 5), ("kept", 25)):  # the outline is where the cell is
        columns = np.flatnonzero(at[kind][:-LEGEND_PX].any(0))
        assert abs(columns.min() - x * zoom) <= 2 and abs(columns.max() - (x + 10) * zoom) <= 3
    middle = picture[int(10 * zoom) - 8 : int(10 * zoom) + 8, int(10 * zoom) - 8 : int(10 * zoom) + 8]
    assert (middle > 240).all(-1).any() and (middle < 15).all(-1).any()  # a white number with a dark rim


def test_a_number_that_would_hide_another_is_left_out_and_counted() -> None:
    large = masks.from_crops(300, 300, [(np.ones((60, 60), bool), 5 + 70 * i, 200) for i in range(4)])
    close = masks.from_crops(300, 300, [(np.ones((2, 2), bool), 100 + 2 * i, 100) for i in range(2)])
    ground = np.zeros((300, 300, 3), np.uint8)
    left_out = []
    for cells in (large, Instances.concat(300, 300, [large, close])):
        numbers, kinds = range(10, 10 + len(cells)), ["kept"] * len(cells)
        (page,), left = Numbered(ground, cells, numbers, kinds, COLOURS).pages()
        assert left == 0
        left_out.append(page.unnumbered)
    assert left_out == [0, 1]
