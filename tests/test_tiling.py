"""Tiling: one tile changes nothing, many tiles blend without a seam, every size works."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from cellsemi.models.tiling import run_tiled, tile_starts

STRIDE = 16


def pixelwise(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack([tiles, 2 * tiles, -tiles], axis=1)


def blur(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
    """A network with a small receptive field: it is wrong only near the borders of its tile."""
    return np.stack([ndimage.uniform_filter(tile, 7, mode="constant") for tile in tiles])[:, None]


def image_of(height: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(height * 1000 + width).random((height, width), np.float32)


@given(st.integers(1, 2000), st.integers(1, 40), st.floats(0, 0.89))
def test_tiles_cover_a_side_and_overlap(side: int, tiles: int, overlap: float) -> None:
    tile = 16 * tiles
    starts = tile_starts(side, tile, overlap)
    assert starts[0] == 0 and starts == sorted(set(starts))
    assert starts[-1] + tile == max(side, tile)
    steps = np.diff(starts)
    assert (steps <= tile - int(tile * overlap) + 1).all()
    assert (steps <= tile).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (70, 1), (64, 64), (65, 64), (130, 200), (63, 400)])
def test_a_pixelwise_network_is_reproduced_for_every_size(shape: tuple[int, int]) -> None:
    image = image_of(*shape)
    found = run_tiled(image, pixelwise, 64, 0.25, STRIDE)
    np.testing.assert_allclose(found, pixelwise(image[None])[0], rtol=1e-5, atol=1e-6)


def test_the_network_sees_sides_that_it_can_take() -> None:
    seen = set()

    def spy(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.add(tiles.shape[1:])
        return pixelwise(tiles)

    run_tiled(image_of(37, 150), spy, 64, 0.25, STRIDE)
    assert seen == {(48, 64)}


def test_one_tile_is_what_the_network_says() -> None:
    image = image_of(64, 48)
    assert np.array_equal(run_tiled(image, blur, 64, 0.25, STRIDE), blur(image[None])[0])


def test_seams_are_smooth_and_far_better_than_hard_cuts() -> None:
    smooth = ndimage.gaussian_filter(image_of(200, 200), 6) + 0.5
    whole = blur(smooth[None])[0]
    tiled = run_tiled(smooth, blur, 80, 0.3, STRIDE)
    inside = (slice(None), slice(8, -8), slice(8, -8))
    assert np.abs(tiled - whole)[inside].max() < 0.05
    jump = max(
        np.abs(np.diff(tiled[0][8:-8, 8:-8], axis=a) - np.diff(whole[0][8:-8, 8:-8], axis=a)).max() for a in (0, 1)
    )
    assert jump < 0.02
    assert np.abs(run_tiled(smooth, blur, 80, 0.0, STRIDE) - whole)[inside].max() > 0.1
