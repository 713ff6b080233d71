"""Where memory ran out, networks see fewer windows at once, then smaller ones."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cellsemi.configs.training import GridConfig, InferenceConfig
from cellsemi.models.inference.less_memory import at_once, halvings, less_memory, smaller_tiles, words
from cellsemi.models.inference.tiling import BATCH_PX, run_tiled


def test_it_holds_within_the_block_alone() -> None:
    with pytest.raises(ZeroDivisionError), less_memory(1):
        assert halvings() == 1 and at_once(100) == 50 and "1/2 of the pixels" in words()
        with less_memory(2):
            assert at_once(100) == 25 and at_once(1) == 1
        assert halvings() == 1
        raise ZeroDivisionError
    assert halvings() == 0 and at_once(100) == 100 and words() == ""


@pytest.mark.parametrize("times", [0, 1, 2])
@pytest.mark.parametrize("side", [300, 724, 2000])
def test_the_network_sees_half_as_many_pixels_at_once_each_time(side: int, times: int) -> None:
    seen: list[int] = []

    def network(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(batch.shape[0] * batch.shape[1] * batch.shape[2])
        return batch[:, None]

    image = np.random.default_rng(0).random((side, side), np.float32)
    with less_memory(times):
        (found,) = run_tiled([image], network, InferenceConfig(tile_px=700, overlap=0.1), stride=1)
    np.testing.assert_allclose(found[0], image, atol=1e-6)  # whole, whatever the windows
    assert max(seen) <= BATCH_PX / 2**times


def test_a_stated_grid_or_stride_stays() -> None:
    grid = InferenceConfig(grid=GridConfig(rows=7, columns=7, window_rows=3, window_columns=3))
    stride = InferenceConfig(tile_px=(301, 302), stride_px=(73, 134))
    with less_memory(2):
        assert smaller_tiles(grid, 0, 2000, 2000) is grid and smaller_tiles(stride, 0, 2000, 2000) is stride
