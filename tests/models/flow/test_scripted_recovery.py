"""The recovery that TorchScript can hold gives the label maps of the recovery itself, label by label."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellsemi.models.flow import scripted_recovery
from cellsemi.models.flow.recovery import recover_labels
from cellsemi.models.flow.targets import flow_targets
from cellsemi.models.flow_unet.torchscript import quiet

Recover = Callable[[Tensor, Tensor, float, int, int], Tensor]
SIDES = [(1, 1), (1, 30), (5, 7), (64, 80), (77, 300), (201, 130), (64, 80)]


@pytest.fixture(scope="module")
def compiled() -> Recover:
    with quiet():
        found: Recover = torch.jit.script(scripted_recovery.recover)
    return found


def cells(seed: int, height: int, width: int) -> NDArray[np.int32]:
    """Discs of 1 to 12 pixels radius anywhere, the later over the earlier: some are cut in pieces."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int32)
    yy, xx = np.mgrid[:height, :width]
    for number in range(1, 2 + height * width // 200):
        y, x, radius = rng.integers(height), rng.integers(width), rng.uniform(1, 12)
        labels[(yy - y) ** 2 + (xx - x) ** 2 < radius**2] = number
    return labels


def outputs(seed: int, height: int, width: int, noise: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A probability and a flow as a network might predict them."""
    rng = np.random.default_rng(seed)
    labels = cells(seed, height, width)
    flow = flow_targets(labels, "geodesic") + rng.normal(0, noise, (2, height, width))
    probability = np.where(labels > 0, 0.8, 0.2) + rng.normal(0, noise, labels.shape)
    return probability.astype(np.float32), flow.astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("min_area_px", [1, 12])
def test_it_recovers_the_same_labels_at_any_size(compiled: Recover, noise: float, min_area_px: int) -> None:
    found = 0
    for seed, (height, width) in enumerate(SIDES):
        probability, flow = outputs(seed, height, width, noise)
        expected = recover_labels(probability, flow, threshold=0.55, iterations=120, min_area_px=min_area_px)
        labels = compiled(torch.from_numpy(probability), torch.from_numpy(flow), 0.55, 120, min_area_px).numpy()
        assert labels.shape == expected.shape
        differing = np.count_nonzero(labels != expected)
        assert differing <= 0.001 * expected.size, (height, width)  # single pixels, where flows diverge
        found += int(expected.max())
    assert found > 100


def test_an_image_without_cells_has_no_labels(compiled: Recover) -> None:
    for shape in ((40, 50), (1, 1)):
        assert not compiled(torch.zeros(shape), torch.zeros(2, *shape), 0.5, 10, 1).any()


def test_small_pieces_that_no_flow_gathers_are_cells_of_their_own(compiled: Recover) -> None:
    probability = np.zeros((30, 30), np.float32)
    probability[2:5, 2:5] = probability[20, 20:24] = probability[21, 24] = 1  # the last touches by a corner
    flow = np.zeros((2, 30, 30), np.float32)
    labels = compiled(torch.from_numpy(probability), torch.from_numpy(flow), 0.5, 10, 1).numpy()
    assert labels[3, 3] == 1 and labels[20, 20] == labels[21, 24] == 2 and labels.max() == 2
    assert np.array_equal(labels, recover_labels(probability, flow))


def test_a_flow_that_is_not_a_number_is_no_error(compiled: Recover) -> None:
    probability, flow = outputs(0, 64, 80, 0.1)
    flow[:, 10:20] = np.nan
    labels = compiled(torch.from_numpy(probability), torch.from_numpy(flow), 0.5, 50, 1).numpy()
    assert ((labels > 0) <= (probability > 0.5)).all() and labels.max() > 3


def test_labels_are_numbered_in_the_order_of_their_rows() -> None:
    labels = torch.tensor([[0, 7, 7], [3, 0, 9], [3, 7, 0]])
    assert scripted_recovery.in_order(labels).tolist() == [[0, 1, 1], [2, 0, 3], [2, 1, 0]]
