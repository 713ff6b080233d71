"""Flow targets and recovery: known shapes come back, vectors obey their definition, no limit is silent."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
import pytest
from helpers import flow_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.models.flow.recovery import flow_agreement, flow_errors, keep_large, mean_inside, recover_labels
from cellsemi.models.flow.round_trip import round_trip
from cellsemi.models.flow.targets import FlowTarget, flow_targets

Labels = NDArray[np.int32]


def thick_line(labels: Labels, start: tuple[float, float], end: tuple[float, float], radius: float, value: int) -> None:
    yy, xx = np.mgrid[: labels.shape[0], : labels.shape[1]]
    for t in np.linspace(0, 1, 300):
        y, x = (1 - t) * start[0] + t * end[0], (1 - t) * start[1] + t * end[1]
        labels[(yy - y) ** 2 + (xx - x) ** 2 <= radius**2] = value


def disc(labels: Labels, y: float, x: float, radius: float, value: int) -> None:
    yy, xx = np.mgrid[: labels.shape[0], : labels.shape[1]]
    labels[(yy - y) ** 2 + (xx - x) ** 2 <= radius**2] = value


def star() -> Labels:
    labels = np.zeros((150, 150), np.int32)
    for angle in np.radians([0, 72, 144, 216, 288]):
        thick_line(labels, (75, 75), (75 + 68 * np.sin(angle), 75 + 68 * np.cos(angle)), 1.2, 1)
    disc(labels, 75, 75, 6, 1)
    return labels


def comb() -> Labels:
    """A neuron-like cell: a body at one end, a thin winding process folded beside itself."""
    labels = np.zeros((100, 100), np.int32)
    for i in range(8):
        labels[12 * i + 2 : 12 * i + 4, 6:94] = 1
        side = slice(92, 94) if i % 2 == 0 else slice(6, 8)
        if i < 7:
            labels[12 * i + 2 : 12 * i + 16, side] = 1
    return labels


def elongated() -> Labels:
    labels = np.zeros((60, 160), np.int32)
    labels[20:25, 5:155], labels[25:30, 5:155] = 1, 2
    return labels


def touching() -> Labels:
    labels = np.zeros((70, 110), np.int32)
    disc(labels, 35, 35, 20, 1)
    disc(labels, 35, 72, 20, 2)
    return labels


@pytest.mark.parametrize("draw", [star, elongated, touching])
def test_cells_survive_the_round_trip(draw: Callable[[], Labels]) -> None:
    labels = draw()
    result = round_trip(labels, "geodesic")
    assert (result.cells, result.found, result.recovered_90) == (labels.max(), labels.max(), labels.max())
    assert result.mean_iou > 0.99


def test_geodesic_beats_diffusion_on_a_winding_process() -> None:
    geodesic, diffusion = (round_trip(comb(), target, iterations=800) for target in ("geodesic", "diffusion"))  # type: ignore[arg-type]
    assert geodesic.mean_iou > 0.95 and geodesic.found == 1
    assert diffusion.mean_iou < geodesic.mean_iou - 0.2


def test_diffusion_is_a_working_target() -> None:
    assert round_trip(touching(), "diffusion").recovered_90 == 2
    assert not flow_targets(np.zeros((9, 7), np.int32), "diffusion").any()


def dijkstra(mask: NDArray[np.bool_], centre: tuple[int, int]) -> NDArray[np.float64]:
    """Reference: 8-neighbour shortest paths inside a mask."""
    distance = np.full(mask.shape, np.inf)
    distance[centre] = 0
    queue = [(0.0, centre)]
    while queue:
        d, (y, x) = heapq.heappop(queue)
        for dy, dx in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b):
            p = (y + dy, x + dx)
            inside = 0 <= p[0] < mask.shape[0] and 0 <= p[1] < mask.shape[1] and mask[p]
            if inside and d + np.hypot(dy, dx) < distance[p] - 1e-9:
                distance[p] = d + np.hypot(dy, dx)
                heapq.heappush(queue, (distance[p], p))
    return distance


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_vectors_are_unit_and_lead_down_the_shortest_path(seed: int) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(40, 44)), 2.5)
    labels = ndimage.label(noise > 0.05, np.ones((3, 3)))[0].astype(np.int32)
    flow = flow_targets(labels, "geodesic")
    length = np.hypot(*flow)
    assert not length[labels == 0].any()
    for cell in range(1, labels.max() + 1):
        mask = labels == cell
        still = np.argwhere(mask & (length == 0))
        assert len(still) == 1  # one centre, and every other pixel moves
        np.testing.assert_allclose(length[mask & (length > 0)], 1, atol=1e-5)
        distance = dijkstra(mask, (int(still[0][0]), int(still[0][1])))
        for y, x in np.argwhere(mask & (length > 0)):
            vy, vx = flow[:, y, x]
            ahead = [
                distance[y + dy, x + dx]
                for dy, dx in (
                    (round(float(np.sign(vy))), 0),
                    (0, round(float(np.sign(vx)))),
                    (round(float(vy)), round(float(vx))),
                )
                if (dy or dx) and mask[y + dy, x + dx]
            ]
            assert min(ahead) < distance[y, x] + 0.42  # the marched and the stepped distance differ by little


def test_a_round_cell_points_at_its_middle() -> None:
    labels = np.zeros((41, 41), np.int32)
    disc(labels, 20, 20, 15, 7)
    flow = flow_targets(labels, "geodesic")
    yy, xx = np.mgrid[:41, :41] - 20
    far = (labels > 0) & (np.hypot(yy, xx) > 2)
    cosine = -(flow[0] * yy + flow[1] * xx)[far] / np.hypot(yy, xx)[far]
    assert cosine.min() > 0.95 and cosine.mean() > 0.995
    assert not flow[:, 20, 20].any()


def test_pieces_of_a_broken_cell_have_their_own_centres() -> None:
    labels = np.zeros((12, 30), np.int32)
    labels[3:9, 2:10] = labels[3:9, 18:28] = 5
    flow = flow_targets(labels, "geodesic")
    assert int(((np.hypot(*flow) == 0) & (labels > 0)).sum()) == 2
    assert round_trip(labels, "geodesic").found == 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2), (33, 17)])
@pytest.mark.parametrize("target", ["geodesic", "diffusion"])
def test_every_size_works(shape: tuple[int, int], target: FlowTarget) -> None:
    full, empty = np.ones(shape, np.int32), np.zeros(shape, np.int32)
    assert round_trip(empty, target).found == 0 and round_trip(empty, target).mean_iou == 1
    found = recover_labels(full.astype(np.float32), flow_targets(full, target))
    assert found.shape == shape and found.max() == 1 and (found > 0).all()


def test_a_label_that_fills_the_image_is_not_removed_for_its_size() -> None:
    labels = np.full((60, 60), 3, np.int32)
    assert round_trip(labels, "geodesic").mean_iou == 1


def test_only_the_stated_area_drops_cells() -> None:
    labels = np.zeros((30, 60), np.int32)
    labels[3:5, 3:5] = 1
    labels[10:13, 10:13] = 2
    labels[15:20, 30:36] = 3
    probability, flow = (labels > 0).astype(np.float32), flow_targets(labels, "geodesic")
    areas = [np.bincount(recover_labels(probability, flow, min_area_px=m).ravel())[1:].tolist() for m in (1, 5, 10)]
    assert [sorted(a) for a in areas] == [[4, 9, 30], [9, 30], [30]]


def test_more_cells_than_sixteen_bits_hold() -> None:
    side = 260  # 67,600 cells of 4x4
    labels = np.zeros((5 * side, 5 * side), np.int32)
    labels.reshape(side, 5, side, 5)[:, :4, :, :4] = np.arange(1, side * side + 1).reshape(side, 1, side, 1)
    found = recover_labels((labels > 0).astype(np.float32), flow_targets(labels, "geodesic"), iterations=12)
    assert found.max() == side * side
    assert (np.bincount(found.ravel())[1:] == 16).all()


def test_agreement_falls_with_the_angle_and_with_a_wrong_mask() -> None:
    labels = touching()
    flow = flow_targets(labels, "geodesic")
    np.testing.assert_allclose(flow_agreement(flow_errors(labels, flow, "geodesic")), 1)
    turned = np.stack([flow[1], -flow[0]])
    assert (flow_agreement(flow_errors(labels, turned, "geodesic")) < 0.01).all()
    both = (labels > 0).astype(np.int32)
    assert flow_agreement(flow_errors(both, flow, "geodesic"))[0] < 0.8
    assert flow_errors(np.zeros((4, 4), np.int32), np.zeros((2, 4, 4), np.float32), "geodesic").shape == (0,)


def test_means_and_areas_are_of_the_pixels_of_each_label() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 6, (20, 30)).astype(np.int32)
    labels[labels == 4] = 0  # a gap: 4 is no cell
    labels[0, :3], labels[labels == 2] = 2, 5
    labels[5, :3] = 2
    values = rng.random((20, 30), np.float32)
    of_each = [values[labels == cell].astype(np.float64) for cell in range(1, 6)]
    expected = [inside.mean() if inside.size else 0 for inside in of_each]
    np.testing.assert_allclose(mean_inside(values, labels, 5), expected, rtol=1e-12)
    np.testing.assert_array_equal(keep_large(labels, 4), np.array([0, 1, 0, 2, 0, 3])[labels])
    np.testing.assert_array_equal(keep_large(labels, 1), np.array([0, 1, 2, 3, 0, 4])[labels])
    without_gap = keep_large(labels, 1)
    np.testing.assert_array_equal(keep_large(without_gap, 0), without_gap)
    assert not keep_large(np.zeros((3, 4), np.int32), 1).any()
    assert not keep_large(without_gap, 601).any()


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.int32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 2)),
    st.integers(1, 4),
    st.integers(0, 2**16),
)
def test_the_geodesic_target_is_that_of_plain_python_to_the_last_bit(coarse: Labels, size: int, seed: int) -> None:
    """Blocks with ragged edges: cells that are broken, bent, touch by a corner, and are full of equal distances."""
    labels = np.kron(coarse, np.ones((size, size), np.int32)).astype(np.int32)
    labels[np.random.default_rng(seed).random(labels.shape) < 0.05] = 0
    assert np.array_equal(flow_targets(labels, "geodesic"), flow_reference.geodesic_flows(labels))
