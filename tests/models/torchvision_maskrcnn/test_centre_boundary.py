"""The maps of the extra heads against slow references, and what their loss does not see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from cellsemi.models.torchvision_maskrcnn.centre_boundary import (
    boundary_map,
    centre_map,
    map_head,
    map_loss,
    map_makers,
)
from cellsemi.rounds.cells.instance_map import IGNORE

MARKS = arrays(np.int32, (9, 12), elements=st.integers(-1, 3))


def slow_centres(instance_map: NDArray[np.int32], sigma: float) -> NDArray[np.float64]:
    yy, xx = np.mgrid[: instance_map.shape[0], : instance_map.shape[1]]
    found = np.zeros(instance_map.shape)
    for number in set(np.unique(instance_map)) - {0, IGNORE}:
        y, x = ndimage.center_of_mass(instance_map == number)
        found = np.maximum(found, np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / (2 * sigma**2)))
    return found


def slow_boundaries(instance_map: NDArray[np.int32]) -> NDArray[np.bool_]:
    square = np.ones((3, 3), bool)
    found = np.zeros(instance_map.shape, bool)
    for number in set(np.unique(instance_map)) - {0, IGNORE}:
        cell = instance_map == number
        found |= ndimage.binary_dilation(cell, square) ^ ndimage.binary_erosion(cell, square, border_value=1)
    return found


@settings(deadline=None, max_examples=60)
@given(MARKS, st.floats(0.5, 6))
def test_the_maps_are_those_of_the_slow_reference(instance_map: NDArray[np.int32], sigma: float) -> None:
    np.testing.assert_allclose(
        centre_map(instance_map, sigma), slow_centres(instance_map, sigma), atol=4e-4
    )  # exp(-4^2 / 2)
    assert np.array_equal(boundary_map(instance_map) > 0, slow_boundaries(instance_map))


def test_a_round_cell_has_a_peak_of_one_and_a_ring() -> None:
    yy, xx = np.mgrid[:41, :41]
    instance_map = ((yy - 20) ** 2 + (xx - 20) ** 2 < 100).astype(np.int32)
    centres, ring = centre_map(instance_map, 5), boundary_map(instance_map)
    assert centres[20, 20] == 1 and centres[20, 25] == pytest.approx(np.exp(-0.5)) and centres.dtype == np.float32
    assert ring[20, 20] == 0 and ring[20, 11] == ring[20, 10] == 1 and ring[20, 8] == 0
    assert not centre_map(np.zeros((5, 5), np.int32), 5).any() and not boundary_map(np.ones((5, 5), np.int32)).any()


def test_only_the_heads_that_are_switched_on_have_maps() -> None:
    assert map_makers(centre=False, boundary=False, sigma_px=5) == {}
    makers = map_makers(centre=True, boundary=True, sigma_px=2)
    instance_map = np.zeros((8, 8), np.int32)
    instance_map[2:5, 2:5] = 1
    assert np.array_equal(makers["centre"](instance_map), centre_map(instance_map, 2))
    assert np.array_equal(makers["boundary"](instance_map), boundary_map(instance_map))


def test_the_loss_is_cross_entropy_of_the_largest_value_in_each_block() -> None:
    torch.manual_seed(0)
    logits, truth = torch.randn(2, 1, 3, 4), torch.rand(2, 12, 16)
    largest = truth.view(2, 3, 4, 4, 4).amax((2, 4))
    expected = functional.binary_cross_entropy_with_logits(logits[:, 0], largest)
    assert map_loss(logits, truth, torch.ones(2, 12, 16)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_padding_and_pixels_without_weight_change_neither_loss_nor_gradient() -> None:
    torch.manual_seed(0)
    head = map_head(8)
    features = torch.randn(1, 8, 8, 8)  # of a crop of 24 px, filled up to 32
    weight = torch.ones(1, 24, 24)
    weight[:, :10, :10] = 0
    results = []
    for ignored in (0.0, 1.0):
        truth = torch.zeros(1, 24, 24)
        truth[:, 12:15] = 0.7
        truth[:, :10, :10] = ignored
        head.zero_grad()
        loss = map_loss(head(features), truth, weight)
        loss.backward()
        results.append([loss.item(), *(p.grad.clone() for p in head.parameters() if p.grad is not None)])
    assert results[0][0] == results[1][0] and len(results[0]) == 5
    assert all(torch.equal(a, b) for a, b in zip(results[0][1:], results[1][1:], strict=True))
    assert map_loss(head(features), torch.ones(1, 24, 24), torch.zeros(1, 24, 24)).item() == 0
