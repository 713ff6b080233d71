"""The pixel order is told from generated masks of many kinds, or refused; it is never told wrong."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.configs.errors import DataError
from cellsemi.rounds.formats.kaggle.pixel_order import Cell, Picture, contrasts, count_parts, decide, read_as
from cellsemi.rounds.formats.kaggle.rle import Runs, encode, line_length, parse

Order = Literal["row", "column"]
ORDERS: tuple[Order, ...] = ("row", "column")
OTHER: dict[Order, Order] = {"row": "column", "column": "row"}


def runs_of(mask: NDArray[np.bool_], order: Order) -> Runs:
    return parse(encode(mask, 0, 0, *mask.shape, order), mask.size)


def ellipses(seed: int, count: int, height: int, width: int, ry: float, rx: float) -> list[NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centres = zip(rng.integers(0, height, count), rng.integers(0, width, count), strict=True)
    return [((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1 for cy, cx in centres]


def cells_of(masks: list[NDArray[np.bool_]], order: Order) -> list[Cell]:
    return [Cell(runs_of(mask, order), *mask.shape) for mask in masks]


def picture(seed: int, masks: list[NDArray[np.bool_]], order: Order, contrast: float) -> Picture:
    grey = np.random.default_rng(seed).normal(100, 5, masks[0].shape)
    grey[np.any(masks, axis=0)] += contrast
    return Picture(grey.astype(np.float32), [runs_of(mask, order) for mask in masks])


@given(mask=npst.arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 8))).filter(lambda m: bool(m.any())))
@settings(deadline=None, max_examples=200)
def test_parts_counted_on_runs_are_the_eight_connected_parts_of_the_bitmap(mask: NDArray[np.bool_]) -> None:
    expected = ndimage.label(mask, np.ones((3, 3)))[1]
    for order in ORDERS:
        assert count_parts(runs_of(mask, order), line_length(*mask.shape, order)) == expected


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [(130, 176), (176, 130), (120, 126), (64, 400)])
@pytest.mark.parametrize(("ry", "rx"), [(8, 8), (3, 3), (1, 14), (14, 1), (20, 4)])
def test_compact_and_thin_cells_in_oblong_images_tell_the_order(
    order: Order, size: tuple[int, int], ry: float, rx: float
) -> None:
    found = decide("auto", cells_of(ellipses(1, 40, *size, ry, rx), order), [], "train.csv")
    assert found.order == order
    assert found.evidence.startswith(f"{order}-major: ") and "of the runs cross a line end" in found.evidence


@pytest.mark.parametrize("order", ORDERS)
def test_the_evidence_names_the_counts(order: Order) -> None:
    masks = []
    for corner in (20, 60, 100):
        mask = np.zeros((520, 704), bool)
        mask[corner : corner + 11, corner : corner + 11] = True
        masks.append(mask)
    found = decide("auto", cells_of(masks, order), [], "train.csv")
    shares = "100% of 30 run steps are near the width (704), 0% near the height (520)"
    turned = "0% of 30 run steps are near the width (704), 100% near the height (520)"
    assert (shares if order == "row" else turned) in found.evidence
    own, other = (f"{1 + extra:.2f}" for extra in (0, 31 / 3))  # one of the stripes goes over a line end
    told = f"{own} parts per cell read row-major, {other} column-major"
    assert order == "column" or told in found.evidence


def test_a_tiny_set_of_two_cells_is_enough_when_they_have_several_runs() -> None:
    for order in ORDERS:
        assert decide("auto", cells_of(ellipses(2, 2, 52, 70, 5, 5), order), [], "a.csv").order == order


def test_cells_of_one_run_along_the_lines_tell_nothing_but_across_them_do() -> None:
    flat = []
    for y in range(10, 40):
        mask = np.zeros((50, 1000), bool)
        mask[y, 100 + y : 104 + y] = True
        flat.append(mask)
    # Four pixels in a row are as compact as four in a column.
    words = r"a\.csv: the pixel order cannot be decided .*state it: --set data\.pixel_order"
    with pytest.raises(DataError, match=words):
        decide("auto", cells_of(flat, "row"), [], "a.csv")
    assert decide("auto", cells_of(flat, "column"), [], "a.csv").order == "column"


def test_broken_masks_with_holes_still_tell_the_order() -> None:
    rng = np.random.default_rng(3)
    masks = [mask & (rng.random(mask.shape) > 0.15) for mask in ellipses(3, 40, 130, 176, 9, 9)]
    for order in ORDERS:
        assert decide("auto", cells_of(masks, order), [], "a.csv").order == order


def test_noise_is_no_cells_in_either_order() -> None:
    rng = np.random.default_rng(4)
    masks = [rng.random((60, 80)) > 0.99 for _ in range(20)]
    with pytest.raises(DataError, match=r"neither pixel order makes cells .*parts per cell.*another size"):
        decide("auto", cells_of(masks, "row"), [], "a.csv")


def test_masks_of_images_of_another_size_are_refused() -> None:
    cells = [Cell(cell.runs, 200, 231) for cell in cells_of(ellipses(5, 40, 130, 176, 9, 9), "row")]
    with pytest.raises(DataError, match="neither pixel order makes cells"):
        decide("auto", cells, [], "a.csv")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("contrast", [40.0, -40.0])
def test_square_images_are_told_by_how_the_cells_stand_out(order: Order, contrast: float) -> None:
    masks = ellipses(6, 30, 96, 96, 5, 5)
    found = decide("auto", cells_of(masks, order), [picture(6, masks, order, contrast)], "a.csv")
    assert found.order == order and "differ from their surroundings by" in found.evidence


@pytest.mark.parametrize("seed", range(5))
def test_square_images_without_contrast_are_not_guessed(seed: int) -> None:
    masks = ellipses(seed, 30, 96, 96, 5, 5)
    with pytest.raises(DataError, match=r"cannot be decided .*differ from their surroundings by .*state it"):
        decide("auto", cells_of(masks, "row"), [picture(seed, masks, "row", 0)], "a.csv")


def test_few_square_cells_are_not_enough_and_none_at_all_is_said() -> None:
    masks = ellipses(6, 5, 96, 96, 5, 5)
    with pytest.raises(DataError, match="5 cells of 1 images"):
        decide("auto", cells_of(masks, "row"), [picture(6, masks, "row", 40)], "a.csv")
    with pytest.raises(DataError, match="no cell could be compared"):
        decide("auto", cells_of(masks, "row"), [], "a.csv")


def test_one_oblong_image_decides_for_the_square_ones() -> None:
    for order in ORDERS:
        cells = cells_of(ellipses(7, 30, 96, 96, 5, 5), order) + cells_of(ellipses(7, 8, 96, 150, 5, 5), order)
        found = decide("auto", cells, [], "a.csv")
        assert found.order == order and "near the width (150)" in found.evidence


@pytest.mark.parametrize("order", ORDERS)
def test_a_stated_order_is_confirmed_contradicted_or_taken_as_it_is(order: Order) -> None:
    cells = cells_of(ellipses(8, 30, 96, 150, 5, 5), order)
    confirmed = decide(order, cells, [], "a.csv")
    assert confirmed.order == order and "confirmed by the data" in confirmed.evidence
    with pytest.raises(
        DataError, match=f"a.csv: data.pixel_order is '{OTHER[order]}', but the masks are {order}-major"
    ):
        decide(OTHER[order], cells, [], "a.csv")
    square = decide(order, cells_of(ellipses(8, 30, 96, 96, 5, 5), order), [], "a.csv")
    assert square.order == order and "neither confirm nor refute" in square.evidence


def test_images_are_not_looked_at_when_the_masks_tell() -> None:
    def fail() -> Picture:
        raise AssertionError("an image was read")

    cells = cells_of(ellipses(9, 30, 96, 150, 5, 5), "row")
    assert decide("auto", cells, (fail() for _ in range(1)), "a.csv").order == "row"


def test_the_contrast_of_a_cell_is_the_difference_to_a_ring_free_of_other_cells() -> None:
    grey = np.full((20, 30), 10, np.float32)
    grey[5:8, 5:8] = 50
    grey[5:8, 8:11] = 90
    masks = [np.zeros((20, 30), bool) for _ in range(3)]
    masks[0][5:8, 5:8] = True
    masks[1][5:8, 8:11] = True
    masks[2][:] = True
    two = Picture(grey, [runs_of(mask, "row") for mask in masks[:2]])
    assert contrasts(two, "row").tolist() == [40, 80]
    alone = Picture(grey, [runs_of(masks[2], "row")])
    assert np.isnan(contrasts(alone, "row")).all()


def test_steps_count_for_the_nearer_of_two_similar_lengths() -> None:
    mask = ellipses(10, 1, 100, 104, 12, 0.5)[0]
    cells = cells_of([mask], "row")
    row, column = read_as("row", cells), read_as("column", cells)
    assert row.steps == row.near == int(mask.any(axis=1).sum()) - 1 and column.near == 0
