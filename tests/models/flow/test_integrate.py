"""The integrated flow ends where Cellpose's own ends: on random fields, on fields of cells, on cycles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.configs.data import GeneratedConfig
from cellsemi.models.flow import recovery
from cellsemi.models.flow.integrate import BLOCK, integrate_flow
from cellsemi.models.flow.targets import FlowTarget, flow_targets
from cellsemi.rounds.cells import masks
from cellsemi.rounds.datasets import synthetic

Flow = NDArray[np.float32]
NEAR_PX = 0.01
CLASSES = ["shsy5y", "astro", "cort"]


def of_cellpose(flow: Flow, pixels: tuple[NDArray[np.intp], ...], iterations: int) -> Flow:
    """Reference: the integration of the installed Cellpose."""
    from cellpose import dynamics

    ends: Flow = dynamics.follow_flows(flow, pixels, niter=iterations).numpy()
    return ends


def apart(flow: Flow, pixels: tuple[NDArray[np.intp], ...], iterations: int) -> NDArray[np.float32]:
    """Distance in pixels of each end from Cellpose's."""
    distance: NDArray[np.float32] = np.hypot(
        *(integrate_flow(flow, pixels, iterations) - of_cellpose(flow, pixels, iterations))
    )
    return distance


def random_field(seed: int, height: int, width: int, length: float, blur_px: float) -> Flow:
    noise = np.random.default_rng(seed).normal(size=(2, height, width))
    field = ndimage.gaussian_filter(noise, (0, blur_px, blur_px))
    return (length * field / np.hypot(*field)).astype(np.float32)


def everywhere(flow: Flow) -> tuple[NDArray[np.intp], ...]:
    return np.nonzero(np.ones(flow.shape[1:], bool))


def cells(index: int, target: FlowTarget) -> tuple[Flow, Flow]:
    """Cell probability and flow of a generated image, as a network might say them: smoothed, with noise."""
    config = GeneratedConfig(labelled=3, unlabelled=0, val=1, test=1)
    instances = synthetic.make(config, CLASSES, 3, "labelled", index).instances
    assert instances is not None
    labels = masks.to_label_map(instances)
    noise = ndimage.gaussian_filter(np.random.default_rng(index).normal(size=(2, *labels.shape)), (0, 1.5, 1.5))
    flow = ndimage.gaussian_filter(flow_targets(labels, target), (0, 0.7, 0.7)) + 2 * noise * (labels > 0)
    return ndimage.gaussian_filter((labels > 0).astype(np.float32), 1), flow.astype(np.float32)


@settings(max_examples=12)
@given(st.integers(0, 9999), st.integers(2, 40), st.integers(2, 40), st.integers(0, 200))
def test_smooth_fields_lead_where_cellpose_leads(seed: int, height: int, width: int, iterations: int) -> None:
    flow = random_field(seed, height, width, 1, 3)
    assert (apart(flow, everywhere(flow), iterations) > NEAR_PX).mean() < 0.02


@settings(max_examples=25)
@given(st.integers(0, 9999), st.integers(2, 40), st.integers(2, 40), st.integers(0, 4))
def test_a_few_steps_through_any_field_are_those_of_cellpose(seed: int, height: int, width: int, steps: int) -> None:
    flow = random_field(seed, height, width, 2.5, 0)  # rough and fast: many pixels meet the border
    assert (apart(flow, everywhere(flow), steps) < NEAR_PX).all()


@pytest.mark.parametrize("count", [0, 1, BLOCK, BLOCK + 1])
def test_any_number_of_pixels_is_integrated(count: int) -> None:
    flow = random_field(1, 30, 40, 1, 3)
    pixels = tuple(side[:count] for side in everywhere(flow))
    assert integrate_flow(flow, pixels, 50).shape == (2, count)
    if count:
        assert (apart(flow, pixels, 50) < NEAR_PX).all()


def test_no_step_is_no_way() -> None:
    flow = random_field(2, 9, 7, 1, 1)
    np.testing.assert_allclose(integrate_flow(flow, everywhere(flow), 0), everywhere(flow), atol=1e-5)


def test_a_pixel_that_swings_about_a_sink_is_on_the_right_side_after_every_step() -> None:
    flow = np.zeros((2, 5, 41), np.float32)
    flow[1, :, :20], flow[1, :, 20:] = 1, -1
    pixels = everywhere(flow)
    ends = [integrate_flow(flow, pixels, n) for n in range(60, 64)]
    assert (np.abs(ends[0] - ends[1]).max(0) > 0.3).mean() > 0.3  # they do swing
    np.testing.assert_allclose(ends[:2], ends[2:], atol=NEAR_PX)
    for n in range(45):
        assert (apart(flow, pixels, n) < NEAR_PX).all()


def test_a_pixel_on_a_round_of_four_steps_is_where_it_belongs_after_every_step() -> None:
    side = 33
    # Where Cellpose reads the flow of pixel p is place p + (p - middle) / (side - 1), see integrate_flow.
    y, x = (np.mgrid[:side, :side] - 16) * (side - 1) / side
    flow = np.stack([x - y, -y - x]).astype(np.float32)  # a quarter turn about the middle
    pixels = tuple(corner + 12 for corner in everywhere(flow[:, :9, :9]))
    ends = [integrate_flow(flow, pixels, n) for n in range(100, 105)]
    np.testing.assert_allclose(ends[0], ends[4], atol=NEAR_PX)
    assert (np.hypot(*(ends[0] - ends[1])) > 0.5).mean() > 0.9 and (np.hypot(*(ends[0] - ends[2])) > 0.5).mean() > 0.9
    for n in range(45):
        assert (apart(flow, pixels, n) < NEAR_PX).all()


def test_a_flow_that_is_not_a_number_leads_to_the_first_pixel() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        flow = np.full((2, 6, 8), bad, np.float32)
        ends = integrate_flow(flow, everywhere(flow), 5)
        assert (ends >= 0).all() and (ends[0] <= 5).all() and (ends[1] <= 7).all()
    assert not integrate_flow(np.full((2, 6, 8), np.nan, np.float32), everywhere(flow), 5).any()


@pytest.mark.parametrize("target", ["geodesic", "diffusion"])
@pytest.mark.parametrize("index", range(len(CLASSES)))
def test_cells_are_those_that_cellposes_walk_gives(
    index: int, target: FlowTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    probability, flow = cells(index, target)
    assert (apart(flow, np.nonzero(probability > 0.5), 200) > NEAR_PX).mean() < 0.001
    ours = recovery.recover_labels(probability, flow)
    walked: list[Any] = []
    monkeypatch.setattr(recovery, "integrate_flow", lambda *field: walked.append(1) or of_cellpose(*field))
    theirs = recovery.recover_labels(probability, flow)
    assert walked and ours.max() == theirs.max() > 3
    assert (ours != theirs).sum() <= 5
    assert masks.iou_matrix(masks.from_label_map(ours), masks.from_label_map(theirs)).max(1).min() > 0.99
