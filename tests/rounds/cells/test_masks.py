"""The mask codec against pycocotools and plain bitmaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pycocotools import mask as coco
from scipy import ndimage

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import crops, from_crops, from_label_map, iou_matrix, to_label_map, union_map
from cellsemi.rounds.cells.rle import decode, decode_counts, decode_crop, encode, encode_crop

bitmaps = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))
label_maps = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16), elements=st.integers(0, 5))


@given(bitmaps)
def test_the_code_is_cocos_and_decodes_to_the_same_mask(mask: np.ndarray) -> None:
    rle = encode(mask)
    assert rle == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert np.array_equal(decode(rle, *mask.shape), mask)


@given(st.lists(st.integers(1, 2**22), min_size=1, max_size=12))
def test_long_runs_decode_as_pycocotools_encodes_them(runs: list[int]) -> None:
    rle = coco.frPyObjects({"counts": runs, "size": [sum(runs), 1]}, sum(runs), 1)["counts"]
    assert decode_counts(rle).tolist() == runs


@given(label_maps)
def test_a_label_map_survives_the_way_through_instances(labels: np.ndarray) -> None:
    cells = from_label_map(labels)
    values = [v for v in np.unique(labels) if v]
    assert cells.area.tolist() == [(labels == v).sum() for v in values]
    dense = to_label_map(cells, np.arange(len(cells)))
    back = np.array([0, *values])[dense]
    assert np.array_equal(back, labels)


@given(label_maps)
def test_boxes_are_tight(labels: np.ndarray) -> None:
    for crop, x0, y0 in crops(from_label_map(labels)):
        assert crop.any(0)[[0, -1]].all() and crop.any(1)[[0, -1]].all()
        assert x0 >= 0 and y0 >= 0


@given(label_maps, st.integers(0, 2**16))
def test_iou_is_that_of_the_bitmaps(labels: np.ndarray, seed: int) -> None:
    other = np.random.default_rng(seed).permuted(labels)
    a, b = from_label_map(labels), from_label_map(other)
    got = iou_matrix(a, b)
    assert got.shape == (len(a), len(b))
    for i, left in enumerate(a.rle):
        for j, right in enumerate(b.rle):
            p, q = decode(left, *labels.shape), decode(right, *labels.shape)
            assert got[i, j] == pytest.approx((p & q).sum() / (p | q).sum())


def test_where_masks_overlap_the_better_score_keeps_the_pixel() -> None:
    square = np.ones((4, 4), bool)
    cells = from_crops(6, 6, [(square, 0, 0), (square, 2, 2)], score=np.array([0.3, 0.9]))
    labels = to_label_map(cells)
    assert labels[3, 3] == 2 and labels[0, 0] == 1
    assert (labels == 2).sum() == 16 and (labels == 1).sum() == 12


def test_more_than_65535_cells_keep_their_numbers() -> None:
    labels = np.arange(1, 300 * 300 + 1, dtype=np.int32).reshape(300, 300)
    cells = from_label_map(labels)
    assert len(cells) == 90_000
    assert to_label_map(cells.select([65_536, 89_999]))[299, 299] == 2


def test_a_code_of_another_image_size_is_refused() -> None:
    rle = encode(np.ones((3, 4), bool))
    with pytest.raises(ValueError, match="covers 12 pixels, the image of 5x5 has 25"):
        decode(rle, 5, 5)


def test_a_code_cut_in_the_middle_is_refused() -> None:
    rle = coco.frPyObjects({"counts": [5000, 5000], "size": [100, 100]}, 100, 100)["counts"]
    with pytest.raises(ValueError, match="cut off"):
        decode_counts(rle[:-1])


def test_a_crop_outside_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode_crop(np.ones((3, 3), bool), 8, 0, 10, 10)


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="holds no pixel"):
        from_crops(5, 5, [(np.zeros((2, 2), bool), 0, 0)])


def test_union_grows_by_the_dilation() -> None:
    cells = from_crops(9, 9, [(np.ones((1, 1), bool), 4, 4)])
    assert union_map(cells).sum() == 1
    assert union_map(cells, 2).sum() == 13
    assert union_map(Instances.empty(9, 9), 2).sum() == 0


@given(label_maps, st.integers(0, 4))
def test_union_grows_as_scipy_dilates(labels: np.ndarray, dilation_px: int) -> None:
    covered = labels > 0
    expected = ndimage.binary_dilation(covered, iterations=dilation_px) if dilation_px else covered
    assert np.array_equal(union_map(from_label_map(labels), dilation_px), expected)


@given(
    hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 40)),
    st.sampled_from([0, 1, 7, 2**20, 2**22, 2**31 - 50]),
)
def test_label_maps_are_read_as_by_sorting_their_values(small: NDArray[np.uint16], more: int) -> None:
    labels = np.where(small > 20, small.astype(np.int64) + more, small)
    found = masks.from_label_map(labels)
    values = [value for value in np.unique(labels).tolist() if value]
    for rle, value in zip(found.rle, values, strict=True):
        assert np.array_equal(decode(rle, *labels.shape), labels == value)
    sorted_ones = masks.from_crops(*labels.shape, [(labels == value, 0, 0) for value in values])
    assert found.rle == sorted_ones.rle and np.array_equal(found.bbox, sorted_ones.bbox)


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)), st.data())
def test_a_crop_is_that_part_of_the_whole_mask(mask: NDArray[np.bool_], data: st.DataObject) -> None:
    """The box may be tight, wider, or cut through the mask."""
    height, width = mask.shape
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    assert np.array_equal(decode_crop(encode(mask), (x0, y0, x1, y1), height, width), mask[y0:y1, x0:x1])


def test_small_values_are_read_without_sorting_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting was most of the time of a large image with thousands of cells."""
    monkeypatch.setattr(masks, "_dense", lambda labels: pytest.fail("the pixels were sorted"))
    assert masks.from_label_map(np.array([[0, 5, 65535], [7, 5, 0]], np.uint16)).area.tolist() == [2, 1, 1]
