"""The compiled loops over run lengths give exactly what NumPy and pycocotools give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import rle_reference as reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellsemi.rounds.cells import masks, rle
from cellsemi.rounds.cells.instances import Instances

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))
ONE = SHAPES.flatmap(lambda shape: hnp.arrays(bool, shape))
SOME = SHAPES.flatmap(lambda shape: st.lists(hnp.arrays(bool, shape).filter(np.any), min_size=1, max_size=5))
TWO = SHAPES.flatmap(
    lambda shape: st.tuples(
        *(st.lists(hnp.arrays(bool, shape).filter(np.any), max_size=4) for _ in range(2)), st.just(shape)
    )
)


def instances(found: list[Any], shape: tuple[int, int]) -> Instances:
    return masks.from_crops(*shape, [(mask, 0, 0) for mask in found])


@given(ONE)
def test_text_is_that_of_pycocotools(mask: Any) -> None:
    height, width = mask.shape
    text = rle.encode_crop(mask, 0, 0, height, width)
    assert text == rle.encode(mask) == reference.encode(mask)
    assert np.array_equal(rle.decode(text, height, width), mask)


@given(hnp.arrays(bool, st.tuples(st.integers(0, 6), st.integers(0, 30))), st.sampled_from([bool, np.uint8, float]))
def test_a_whole_mask_of_any_type(mask: Any, dtype: Any) -> None:
    assert rle.encode((3 * mask).astype(dtype)) == reference.encode(np.asfortranarray(mask))


@given(ONE, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))
def test_a_crop_anywhere_in_an_image(crop: Any, left: int, top: int, right: int, bottom: int) -> None:
    whole = np.pad(crop, ((top, bottom), (left, right)))
    text = rle.encode_crop(crop, left, top, *whole.shape)
    assert text == reference.encode(whole)
    box = (left, top, left + crop.shape[1], top + crop.shape[0])
    assert np.array_equal(rle.decode_crop(text, box, *whole.shape), crop)


@given(ONE, st.data())
def test_a_box_smaller_than_the_mask_cuts_it(mask: Any, data: Any) -> None:
    height, width = mask.shape
    x0, x1 = sorted(data.draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    y0, y1 = sorted(data.draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    assert np.array_equal(rle.decode_crop(reference.encode(mask), (x0, y0, x1, y1), height, width), mask[y0:y1, x0:x1])


@given(SOME, st.randoms(use_true_random=False))
def test_label_maps_and_crops(found: list[Any], random: Any) -> None:
    shape = found[0].shape
    cells = instances(found, shape)
    order = list(range(len(found)))
    random.shuffle(order)
    drawn = masks.to_label_map(cells, np.array(order))
    assert drawn.dtype == np.int32 and drawn.flags["C_CONTIGUOUS"]
    assert np.array_equal(drawn, reference.label_map(found, order, *shape))
    for mask, (crop, x, y) in zip(found, masks.crops(cells), strict=True):
        whole = np.zeros(shape, bool)
        whole[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        assert np.array_equal(whole, mask)


@given(TWO)
def test_shared_pixels_and_iou(pair: Any) -> None:
    first, second, shape = pair
    a, b = instances(first, shape), instances(second, shape)
    found, areas, others = masks.pair_overlap(a, b)
    shared = reference.shared_pixels(first, second)
    assert np.array_equal(np.argwhere(shared), np.stack([found.rows, found.columns], axis=1))
    assert np.array_equal(shared[found.rows, found.columns], found.shared)
    assert areas.tolist() == [int(mask.sum()) for mask in first] and np.array_equal(others, b.area)
    union = areas[:, None] + others[None, :] - shared
    assert np.array_equal(masks.iou_matrix(a, b), shared / np.maximum(union, 1))


@given(st.integers(1, 6), st.lists(st.integers(0, 9), max_size=8))
def test_texts_that_others_write_with_empty_runs_are_read(height: int, counts: list[int]) -> None:
    """Counts of 0 between runs that touch: legal, and written by some tools."""
    pixels = sum(counts)
    width = -(-pixels // height) or 1
    counts = [*counts, height * width - pixels]
    text: bytes = reference.coco.frPyObjects({"counts": counts, "size": [height, width]}, height, width)["counts"]
    runs = rle.runs_of([text, text], height, width)
    assert np.array_equal(rle.decode(text, height, width), reference.decode(text, height, width))
    for first, last in (runs.offsets[:2], runs.offsets[1:]):
        starts, ends = runs.starts[first:last], runs.ends[first:last]
        assert (ends > starts).all() and (starts[1:] > ends[:-1]).all()
    assert runs.area().tolist() == [int(reference.decode(text, height, width).sum())] * 2


def test_large_counts_keep_their_bits() -> None:
    mask = np.zeros((3000, 2000), bool)
    mask[2999, 1999] = mask[0, 0] = mask[10:2900, 1000] = True
    text = rle.encode_crop(mask, 0, 0, *mask.shape)
    assert text == reference.encode(mask) and np.array_equal(rle.decode(text, *mask.shape), mask)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"2P", "cut off in the middle of a run"),
        (b"333", r"covers 9 pixels, the image of 3x2 has 6"),
        (b"22", r"covers 4 pixels, the image of 3x2 has 6"),
        (b"", r"covers 0 pixels, the image of 3x2 has 6"),
        (b"O2", r"the RLE covers"),  # a negative count
    ],
)
def test_a_text_that_is_no_mask_of_the_image_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rle.runs_of([b"222", text], 2, 3)


def test_no_masks_at_all() -> None:
    none = Instances.empty(4, 5)
    assert masks.crops(none) == [] and masks.to_label_map(none).shape == (4, 5)
    assert masks.iou_matrix(none, none).shape == (0, 0)
