"""Tiling: one tile changes nothing, many tiles blend without a seam, every size works."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.configs.training import GridConfig, InferenceConfig
from cellsemi.models.inference.tiling import run_tiled
from cellsemi.models.inference.windows import Span, spans, windows

STRIDE = 16


def pixelwise(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([tiles, 2 * tiles, -tiles], axis=1)


def blur(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """A network with a small receptive field: it is wrong only near the borders of its tile."""
    return np.stack([ndimage.uniform_filter(tile, 7, mode="constant") for tile in tiles])[:, None]


def image_of(height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(height * 1000 + width).random((height, width), np.float32)


def tiles(side: int, overlap: float) -> InferenceConfig:
    return InferenceConfig(tile_px=side, overlap=overlap)


def check(found: list[Span], side: int) -> None:
    """Windows cover the side and stay in it; their cores divide it."""
    assert found[0].start == 0 and found[-1].stop == side
    assert all(0 <= s.start <= s.core_start < s.core_stop <= s.stop <= side for s in found)
    assert [s.core_start for s in found] == [0, *(s.core_stop for s in found[:-1])] and found[-1].core_stop == side


@given(st.integers(1, 2000), st.integers(4, 40), st.floats(0, 0.89))
def test_windows_cover_a_side_and_overlap(side: int, sixteens: int, overlap: float) -> None:
    tile = 16 * sixteens
    found = spans(side, 0, tiles(tile, overlap))
    check(found, side)
    starts = [span.start for span in found]
    assert starts == sorted(set(starts)) and {span.stop - span.start for span in found} == {min(side, tile)}
    assert (np.diff(starts) <= tile - int(tile * overlap) + 1).all()


@given(st.integers(3, 900), st.integers(1, 9), st.data())
def test_the_windows_of_a_grid_hold_whole_cells_of_it(side: int, rows: int, data: st.DataObject) -> None:
    held = data.draw(st.integers(1, rows))
    grid = GridConfig(rows=rows, columns=1, window_rows=held, window_columns=1)
    found = spans(side, 0, InferenceConfig(grid=grid))
    check(found, side)
    assert len(found) <= rows - held + 1


def test_the_stated_windows_of_the_sources() -> None:
    sartorius = InferenceConfig(tile_px=(301, 302), stride_px=(73, 134))
    found = windows(520, 704, sartorius)
    assert len(found) == 16 and {w.y.start for w in found} == {0, 73, 146, 219}
    assert {w.x.start for w in found} == {0, 134, 268, 402}
    livecell = InferenceConfig(grid=GridConfig(rows=7, columns=7, window_rows=3, window_columns=3))
    found = windows(518, 700, livecell)
    assert len(found) == 25 and {(w.y.stop - w.y.start, w.x.stop - w.x.start) for w in found} == {(222, 300)}
    middle = found[12]
    assert (middle.y.core_start, middle.y.core_stop) == (222, 296)  # the middle cell of the grid


def test_windows_of_a_grid_and_of_two_sizes_are_blended_too() -> None:
    image = image_of(101, 143)
    grid = InferenceConfig(grid=GridConfig(rows=4, columns=5, window_rows=2, window_columns=2))
    for inference in (grid, InferenceConfig(tile_px=(70, 90), stride_px=(20, 33))):
        (found,) = run_tiled([image], pixelwise, inference, STRIDE)
        np.testing.assert_allclose(found, pixelwise(image[None])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (64, 64), (65, 64), (130, 200), (63, 400)])
def test_a_pixelwise_network_is_reproduced_for_every_size(shape: tuple[int, int]) -> None:
    image = image_of(*shape)
    (found,) = run_tiled([image], pixelwise, tiles(64, 0.25), STRIDE)
    np.testing.assert_allclose(found, pixelwise(image[None])[0], rtol=1e-5, atol=1e-6)


def test_the_network_sees_sides_that_it_can_take() -> None:
    seen = set()

    def spy(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.add(tiles.shape[1:])
        return pixelwise(tiles)

    run_tiled([image_of(37, 150)], spy, tiles(64, 0.25), STRIDE)
    assert seen == {(48, 64)}


def test_one_tile_is_what_the_network_says() -> None:
    image = image_of(64, 48)
    assert np.array_equal(run_tiled([image], blur, tiles(64, 0.25), STRIDE)[0], blur(image[None])[0])


def test_seams_are_smooth_and_far_better_than_hard_cuts() -> None:
    smooth = ndimage.gaussian_filter(image_of(160, 160), 6) + 0.5
    whole = blur(smooth[None])[0]
    (tiled,) = run_tiled([smooth], blur, tiles(80, 0.3), STRIDE)
    inside = (slice(None), slice(8, -8), slice(8, -8))
    assert np.abs(tiled - whole)[inside].max() < 0.05
    jump = max(
        np.abs(np.diff(tiled[0][8:-8, 8:-8], axis=a) - np.diff(whole[0][8:-8, 8:-8], axis=a)).max() for a in (0, 1)
    )
    assert jump < 0.02
    assert np.abs(run_tiled([smooth], blur, tiles(80, 0.0), STRIDE)[0] - whole)[inside].max() > 0.1
