"""The mask codec against pycocotools and plain bitmaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from cellsemi.rounds import masks
from cellsemi.rounds.instances import Instances

bitmaps = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))
label_maps = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16), elements=st.integers(0, 5))


@given(bitmaps)
def test_the_code_is_cocos_and_decodes_to_the_same_mask(mask: np.ndarray) -> None:
    rle = masks.encode(mask)
    assert rle == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert np.array_equal(masks.decode(rle, *mask.shape), mask)


@given(st.lists(st.integers(1, 2**22), min_size=1, max_size=12))
def test_long_runs_decode_as_pycocotools_encodes_them(runs: list[int]) -> None:
    rle = coco.frPyObjects({"counts": runs, "size": [sum(runs), 1]}, sum(runs), 1)["counts"]
    assert masks.decode_counts(rle).tolist() == runs


@given(label_maps)
def test_a_label_map_survives_the_way_through_instances(labels: np.ndarray) -> None:
    cells = masks.from_label_map(labels)
    values = [v for v in np.unique(labels) if v]
    assert cells.area.tolist() == [(labels == v).sum() for v in values]
    dense = masks.to_label_map(cells, np.arange(len(cells)))
    back = np.array([0, *values])[dense]
    assert np.array_equal(back, labels)


@given(label_maps)
def test_boxes_are_tight(labels: np.ndarray) -> None:
    for crop, x0, y0 in masks.crops(masks.from_label_map(labels)):
        assert crop.any(0)[[0, -1]].all() and crop.any(1)[[0, -1]].all()
        assert x0 >= 0 and y0 >= 0


@given(label_maps, st.integers(0, 2**16))
def test_iou_is_that_of_the_bitmaps(labels: np.ndarray, seed: int) -> None:
    other = np.random.default_rng(seed).permuted(labels)
    a, b = masks.from_label_map(labels), masks.from_label_map(other)
    got = masks.iou_matrix(a, b)
    assert got.shape == (len(a), len(b))
    for i, left in enumerate(a.rle):
        for j, right in enumerate(b.rle):
            p, q = masks.decode(left, *labels.shape), masks.decode(right, *labels.shape)
            assert got[i, j] == pytest.approx((p & q).sum() / (p | q).sum())


def test_where_masks_overlap_the_better_score_keeps_the_pixel() -> None:
    square = np.ones((4, 4), bool)
    cells = masks.from_crops(6, 6, [(square, 0, 0), (square, 2, 2)], score=np.array([0.3, 0.9]))
    labels = masks.to_label_map(cells)
    assert labels[3, 3] == 2 and labels[0, 0] == 1
    assert (labels == 2).sum() == 16 and (labels == 1).sum() == 12


def test_more_than_65535_cells_keep_their_numbers() -> None:
    labels = np.arange(1, 300 * 300 + 1, dtype=np.int32).reshape(300, 300)
    cells = masks.from_label_map(labels)
    assert len(cells) == 90_000
    assert masks.to_label_map(cells.select([65_536, 89_999]))[299, 299] == 2


def test_a_code_of_another_image_size_is_refused() -> None:
    rle = masks.encode(np.ones((3, 4), bool))
    with pytest.raises(ValueError, match="covers 12 pixels, the image of 5x5 has 25"):
        masks.decode(rle, 5, 5)


def test_a_code_cut_in_the_middle_is_refused() -> None:
    rle = coco.frPyObjects({"counts": [5000, 5000], "size": [100, 100]}, 100, 100)["counts"]
    with pytest.raises(ValueError, match="cut off"):
        masks.decode_counts(rle[:-1])


def test_a_crop_outside_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        masks.encode_crop(np.ones((3, 3), bool), 8, 0, 10, 10)


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="holds no pixel"):
        masks.from_crops(5, 5, [(np.zeros((2, 2), bool), 0, 0)])


def test_union_grows_by_the_dilation() -> None:
    cells = masks.from_crops(9, 9, [(np.ones((1, 1), bool), 4, 4)])
    assert masks.union_map(cells).sum() == 1
    assert masks.union_map(cells, 2).sum() == 13
    assert masks.union_map(Instances.empty(9, 9), 2).sum() == 0
