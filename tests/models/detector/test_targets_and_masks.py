"""What box detectors share: targets, ignored shares, masks sampled in boxes and drawn from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.box_crops import crop_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.ops import roi_align

from cellsemi.models.crops.crop import Crop
from cellsemi.models.detector.draw_masks import cells_in_boxes, paste_in_box
from cellsemi.models.detector.loss import ignored_share, mask_truth, sample_instance_map
from cellsemi.models.detector.targets import resized, target_of
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instance_map import IGNORE


def test_targets_are_the_cells_that_can_be_seen() -> None:
    instance_map = np.zeros((32, 32), np.int32)
    instance_map[2:8, 3:10] = 4
    instance_map[20, 5:12] = 2  # one pixel high
    instance_map[25:27, 25] = 1
    instance_map[10:14, 20:22] = 3
    instance_map[0, 31] = IGNORE
    crop = Crop(np.zeros((32, 32, 3), np.float32), instance_map, np.array([0, 5, 6, 7, 8]), np.array([1, 2, 3, 4, 5.0]))
    target = target_of(crop, 1.0)
    assert target.boxes.tolist() == [[0, 0, 0, 0], [20, 10, 22, 14], [3, 2, 10, 8]]
    assert target.labels.tolist() == [0, 8, 9] and target.weights.tolist() == [1, 4, 5]
    assert (target.instance_map.numpy() == IGNORE).sum() == 1 + 7 + 2 == target.ignored_sum[-1, -1]
    assert (target.instance_map[2:8, 3:10] == 2).all() and (target.instance_map[10:14, 20:22] == 1).all()
    larger = target_of(crop, 2.0)
    assert larger.instance_map.shape == (64, 64) and larger.boxes.tolist()[-1] == [6, 4, 20, 16]
    assert len(larger.boxes) == 5  # at twice the size all can be seen


@pytest.mark.parametrize(("scale", "shape"), [(1.0, (5, 7, 3)), (2.5, (12, 18, 3)), (0.1, (1, 1, 3))])
def test_a_scale_keeps_a_pixel(scale: float, shape: tuple[int, ...]) -> None:
    pixels = np.full((5, 7, 3), 0.5, np.float32)
    found = resized(pixels, scale)
    assert found.shape == shape and found.dtype == np.float32
    np.testing.assert_allclose(found, 0.5, rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_the_ignored_share_of_a_box_is_counted_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outside = rng.random((13, 17)) < 0.4
    corners = torch.from_numpy(np.pad(outside.cumsum(0).cumsum(1), ((1, 0), (1, 0))))
    low, size = rng.uniform(-8, 20, (30, 2)), rng.uniform(0, 12, (30, 2))
    boxes = np.concatenate([low, low + size], 1).astype(np.float32)
    for box, share in zip(boxes, ignored_share(corners, torch.from_numpy(boxes)).tolist(), strict=True):
        x0, y0, x1, y1 = (max(0, round(float(edge))) for edge in box)
        part = outside[y0:y1, x0:x1]
        assert share == pytest.approx(part.mean() if part.size else 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([7, 28]))
def test_sampled_masks_are_those_of_roi_align(seed: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    instance_map = torch.from_numpy(rng.integers(-1, 3, (20, 26)).astype(np.int32))
    low = rng.uniform(0, 15, (6, 2))
    boxes = torch.from_numpy(np.concatenate([low, low + rng.uniform(0.5, 5, (6, 2))], 1).astype(np.float32))
    wanted = torch.from_numpy(rng.integers(1, 3, 6))
    planes = torch.stack([instance_map == number for number in wanted])[:, None].float()
    rois = torch.cat([torch.arange(6.0)[:, None], boxes], 1)
    expected = roi_align(planes, rois, side, 1.0, 2, aligned=True)[:, 0]
    found = sample_instance_map(instance_map, wanted, boxes, side)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_ignored_pixels_in_the_box_of_a_cell_have_no_weight() -> None:
    crop = crop_of(0, weights=(0.5, 1, 1, 1))
    instance_map = crop.instance_map.copy()
    y0, x0 = np.argwhere(instance_map == 1).min(0)
    instance_map[y0 : y0 + 5][instance_map[y0 : y0 + 5] == 1] = IGNORE
    target = target_of(Crop(crop.pixels, instance_map, crop.cell_class, crop.cell_weight), 1.0)
    box = torch.tensor([[x0, y0, x0 + 14, y0 + 14]], dtype=torch.float32)  # two bins a pixel
    _, weight = mask_truth(target, torch.tensor([1]), box, 28)
    assert not weight[0, :10, :20].any() and (weight[0, 11:, :20] == 0.5).all()


def test_a_pasted_mask_is_the_cell_that_was_sampled() -> None:
    yy, xx = np.mgrid[:70, :80]
    rng = np.random.default_rng(0)
    for radius in (2.5, 4, 7, 15, 25):
        y, x = 35 + rng.uniform(-1, 1), 40 + rng.uniform(-1, 1)
        instance_map = ((yy - y) ** 2 + (xx - x) ** 2 < radius**2).astype(np.int32)
        rows, columns = np.nonzero(instance_map)
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float32)
        box += rng.uniform(0, 0.4, 4) * [-1, -1, 1, 1]
        share = sample_instance_map(torch.from_numpy(instance_map), torch.tensor([1]), torch.from_numpy(box)[None], 28)[
            0
        ].numpy()
        cells = cells_in_boxes(70, 80, box[None], share[None], np.array([0.5]), np.array([1])).encode()
        drawn = masks.to_label_map(cells) > 0
        assert (drawn & (instance_map > 0)).sum() / (drawn | (instance_map > 0)).sum() > 0.97
        assert cells.class_id.tolist() == [1] and 0.4 < cells.score[0] <= 0.5


def slow_paste(mask: NDArray[np.float32], box: NDArray[Any], height: int, width: int) -> NDArray[np.float64]:
    """Pixel by pixel, over the whole image."""
    image = np.zeros((height, width))
    side = len(mask)
    for y in range(height):
        for x in range(width):
            if box[0] <= x + 0.5 < box[2] and box[1] <= y + 0.5 < box[3]:
                u = np.clip((x + 0.5 - box[0]) / (box[2] - box[0]) * side - 0.5, 0, side - 1)
                v = np.clip((y + 0.5 - box[1]) / (box[3] - box[1]) * side - 0.5, 0, side - 1)
                i, j = min(int(v), side - 2), min(int(u), side - 2)
                a, b = v - i, u - j
                image[y, x] = (1 - a) * ((1 - b) * mask[i, j] + b * mask[i, j + 1]) + a * (
                    (1 - b) * mask[i + 1, j] + b * mask[i + 1, j + 1]
                )
    return image


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_a_mask_is_pasted_at_pixel_centres_and_only_in_the_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((6, 6)).astype(np.float32)
    low = rng.uniform(-4, 12, 2)
    box = np.concatenate([low, low + rng.uniform(0.1, 9, 2)])
    probability, x, y = paste_in_box(mask, box, 10, 12)
    whole = np.zeros((10, 12))
    whole[y : y + probability.shape[0], x : x + probability.shape[1]] = probability
    np.testing.assert_allclose(whole, slow_paste(mask, box, 10, 12), atol=1e-5)


def test_a_detection_without_a_pixel_is_none() -> None:
    boxes = np.array([[1.6, 1.6, 2.4, 2.4], [0, 0, 4, 4], [0, 0, 4, 4]])
    small_masks = np.stack([np.ones((28, 28)), np.full((28, 28), 0.4), np.ones((28, 28))]).astype(np.float32)
    cells = cells_in_boxes(9, 9, boxes, small_masks, np.array([0.9, 0.8, 0.7]), np.array([0, 1, 2]))
    assert cells.class_id.tolist() == [2] and cells.score.tolist() == [np.float32(0.7)]
    assert cells_in_boxes(9, 9, boxes[:0], small_masks[:0], np.zeros(0), np.zeros(0, np.int64)).crops == []
