"""Kaggle's run lengths against a decoder that goes pixel by pixel, and against pycocotools."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from pycocotools import mask as coco

from cellsemi.rounds.cells import masks
from cellsemi.rounds.formats.kaggle.rle import RleError, cells_of, decode, encode, parse, texts_of

Order = Literal["row", "column"]
ORDERS: tuple[Order, ...] = ("row", "column")

bitmaps = npst.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))).filter(lambda m: bool(m.any()))


def naive(text: str, height: int, width: int, order: Order) -> NDArray[np.bool_]:
    """The full mask, a pixel at a time, as Kaggle describes it."""
    mask = np.zeros((height, width), bool)
    numbers = [int(token) for token in text.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for pixel in range(start - 1, start - 1 + length):
            if order == "row":
                mask[pixel // width, pixel % width] = True
            else:
                mask[pixel % height, pixel // height] = True
    return mask


def naive_text(mask: NDArray[np.bool_], order: Order) -> str:
    """The canonical text of a mask, a pixel at a time."""
    flat = mask.reshape(-1) if order == "row" else mask.T.reshape(-1)
    pairs: list[list[int]] = []
    for place, inside in enumerate(flat.tolist(), start=1):
        if inside and pairs and sum(pairs[-1]) == place:
            pairs[-1][1] += 1
        elif inside:
            pairs.append([place, 1])
    return " ".join(f"{start} {length}" for start, length in pairs)


def placed(crop: NDArray[np.bool_], x0: int, y0: int, height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), bool)
    mask[y0 : y0 + crop.shape[0], x0 : x0 + crop.shape[1]] = crop
    return mask


@pytest.mark.parametrize("order", ORDERS)
@given(mask=bitmaps)
@settings(deadline=None, max_examples=150)
def test_both_ways_agree_with_a_codec_that_goes_pixel_by_pixel(mask: NDArray[np.bool_], order: Order) -> None:
    height, width = mask.shape
    text = encode(mask, 0, 0, height, width, order)
    assert text == naive_text(mask, order)
    crop, x0, y0 = decode(text, height, width, order)
    assert np.array_equal(placed(crop, x0, y0, height, width), mask)
    assert crop.flags.c_contiguous and crop.dtype == bool


@given(mask=bitmaps, x0=st.integers(0, 4), y0=st.integers(0, 4), extra=st.tuples(st.integers(0, 4), st.integers(0, 4)))
@settings(deadline=None, max_examples=100)
def test_a_crop_is_encoded_where_it_stands(mask: NDArray[np.bool_], x0: int, y0: int, extra: tuple[int, int]) -> None:
    height, width = mask.shape[0] + y0 + extra[0], mask.shape[1] + x0 + extra[1]
    full = placed(mask, x0, y0, height, width)
    for order in ORDERS:
        assert encode(mask, x0, y0, height, width, order) == naive_text(full, order)


@given(mask=bitmaps)
@settings(deadline=None, max_examples=100)
def test_the_column_order_is_that_of_pycocotools(mask: NDArray[np.bool_]) -> None:
    height, width = mask.shape
    numbers = [int(token) for token in encode(mask, 0, 0, height, width, "column").split()]
    pairs = [*zip(numbers[::2], numbers[1::2], strict=True), (mask.size + 1, 0)]
    counts = [numbers[0] - 1]
    for (start, length), after in itertools.pairwise(pairs):
        counts += [length, after[0] - start - length]
    counts = counts[:-1] if counts[-1] == 0 else counts
    theirs = coco.frPyObjects({"counts": counts, "size": [height, width]}, height, width)
    assert theirs["counts"] == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


@pytest.mark.parametrize("order", ORDERS)
@given(mask=bitmaps, seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=100)
def test_pairs_in_any_order_and_cut_in_two_are_read_and_counted(
    mask: NDArray[np.bool_], seed: int, order: Order
) -> None:
    height, width = mask.shape
    numbers = [int(token) for token in naive_text(mask, order).split()]
    pairs = [
        piece
        for start, length in zip(numbers[::2], numbers[1::2], strict=True)
        for piece in ([(start, length)] if length == 1 else [(start, 1), (start + 1, length - 1)])
    ]
    shuffled = [pairs[i] for i in np.random.default_rng(seed).permutation(len(pairs))]
    text = " ".join(f"{start} {length}" for start, length in shuffled)
    assert np.array_equal(placed(*decode(text, height, width, order), height, width), mask)
    falls = sum(a[0] > b[0] for a, b in itertools.pairwise(shuffled))
    assert parse(text, mask.size).unsorted == falls


@pytest.mark.parametrize("order", ORDERS)
@given(
    found=npst.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
        lambda shape: st.lists(npst.arrays(bool, shape).filter(np.any), min_size=1, max_size=4)
    ),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=100)
def test_the_cells_of_an_image_together(found: list[NDArray[np.bool_]], seed: int, order: Order) -> None:
    """Texts in any order of their pairs among plain ones."""
    height, width = found[0].shape
    texts = [naive_text(mask, order) for mask in found]
    cells = masks.from_crops(height, width, [(mask, 0, 0) for mask in found])
    assert texts_of(cells, order) == texts
    generator = np.random.default_rng(seed)
    mixed = []
    for text in texts:
        pairs = np.array(text.split()).reshape(-1, 2)
        mixed.append(" ".join(generator.permutation(pairs).ravel()) if generator.random() < 0.5 else f" {text} ")
    read = cells_of(mixed, height, width, order)
    assert read.rle == cells.rle and np.array_equal(read.bbox, cells.bbox) and np.array_equal(read.area, cells.area)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cellsemi.rounds.cells.rle.AT_ONCE", 20)
        assert cells_of(mixed, height, width, order).rle == cells.rle and texts_of(cells, order) == texts
    with pytest.raises(RleError, match="pair 1") as refused:
        cells_of([*mixed, "0 1", "x"], height, width, order)
    assert refused.value.index == len(mixed)


@pytest.mark.parametrize("order", ORDERS)
def test_the_bitmap_is_the_bounding_box_and_not_the_image(order: Order) -> None:
    crop, x0, y0 = decode("5000052 3", 10_000, 10_000, order)
    assert crop.shape == ((1, 3) if order == "row" else (3, 1)) and crop.all()
    assert (x0, y0) == ((51, 500) if order == "row" else (500, 51))


@pytest.mark.parametrize("order", ORDERS)
def test_a_run_may_cross_the_end_of_a_line(order: Order) -> None:
    mask = placed(*decode("3 4", 3, 4, order), 3, 4)
    assert np.array_equal(mask, naive("3 4", 3, 4, order)) and mask.sum() == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("1 2 3", "3 numbers, expected pairs"),
        ("1 2 x 4", "pair 2: 'x' is not a whole number"),
        ("1 2 3 1.5", "pair 2: '1.5' is not"),
        ("1 2 3 1e5", "pair 2: '1e5' is not"),
        ("nan", "pair 1: 'nan' is not"),
        ("1 -2", "pair 1: '-2' is not"),
        ("1_0 2", "pair 1: '1_0' is not"),
        ("1 2\t3 4", r"pair 1: '2\\t3' is not"),
        ("١ ٢", "pair 1: '١' is not"),
        ("1 2 0 1", "pair 2: the start is 0"),
        ("1 2 5 0", "pair 2: the length is 0"),
        ("12 2", "pair 1: the run 12 2 ends at pixel 13, the image has 12"),
        ("1 1 13 1", "pair 2: the run 13 1 ends at pixel 13"),
        (f"1 1 3 {10**30}", r"pair 2: '1000000000000000'\.\.\. does not fit"),
        ("1 3 3 1", "pairs 1 and 2 overlap: both hold pixel 3"),
        ("7 2 1 3 8 1", "pairs 1 and 3 overlap: both hold pixel 8"),
        ("4 1 4 1", "pairs 1 and 2 overlap"),
        ("1 1 " * 13, "more pairs than the 12 pixels"),
    ],
)
def test_what_is_no_mask_is_named_with_its_pair(text: str, words: str) -> None:
    with pytest.raises(RleError, match=words):
        decode(text, 3, 4, "row")


def test_a_long_text_for_a_small_image_is_refused_before_it_is_read() -> None:
    text = "1 1 " * 500_000
    tracemalloc.start()
    try:
        with pytest.raises(RleError, match="more pairs"):
            parse(text, 100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(text)


@pytest.mark.parametrize(("x0", "y0"), [(-1, 0), (0, -1), (3, 0), (0, 2)])
def test_a_crop_that_does_not_fit_is_refused(x0: int, y0: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode(np.ones((2, 2), bool), x0, y0, 3, 4, "row")


def test_a_mask_without_a_pixel_has_no_text() -> None:
    with pytest.raises(ValueError, match="no pixel"):
        encode(np.zeros((2, 2), bool), 0, 0, 3, 4, "column")
