"""What is cached of a training image gives the same crops as the whole image would, in less memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.pictures import record
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellsemi.models.cellpose_sam.parts import CellposeScaling, cellpose_pixels
from cellsemi.models.crops.cache import ImageCache, share_of_memory
from cellsemi.models.crops.cell_pixels import CellPixels
from cellsemi.models.crops.crop import TrainingImage, training_image
from cellsemi.models.crops.normalise import Scaling, normalise

MAPS = arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-1, 5))
IMAGES = st.one_of(
    *(
        arrays(dtype, shape, elements=elements)
        for shape in [(7, 9), (7, 9, 3)]
        for dtype, elements in [
            (np.uint8, st.integers(0, 255)),
            (np.uint16, st.integers(0, 65535)),
            (np.float32, st.floats(-1e3, 1e3, width=32) | st.just(float("nan"))),
        ]
    )
)


@given(MAPS, st.floats(0, 1, exclude_max=True))
def test_a_pixel_is_the_one_that_a_search_of_the_map_finds(drawn: NDArray[np.int32], place: float) -> None:
    found = CellPixels.of(drawn, 5)
    assert len(found) == 5
    for cell in range(5):
        rows, columns = np.nonzero(drawn == cell + 1)
        pick = int(place * len(rows))
        expected = (rows[pick], columns[pick]) if len(rows) else None
        assert found.pick(cell, place) == expected


@given(IMAGES, st.sampled_from([1, 3]))
def test_a_part_is_scaled_as_the_whole_image_is(image: NDArray[Any], channels: Any) -> None:
    stored, scaling = Scaling.of(image, channels)
    assert scaling(stored[2:5, 1:4]).tobytes() == normalise(image, channels)[2:5, 1:4].tobytes()
    assert stored.dtype == (np.float32 if image.ndim == 3 and channels == 1 else image.dtype)


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
def test_a_part_for_cellpose_is_scaled_as_the_whole_image_is(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    stored, first = Scaling.of(image, 3 if len(shape) == 3 else 1)
    scaling = CellposeScaling.of(stored, first)
    whole = np.clip(cellpose_pixels(normalise(image, first.channels)), 0, 1)
    assert scaling(stored[5:20, 7:9]).tobytes() == whole[5:20, 7:9].tobytes()


def test_the_cache_keeps_what_fits_and_the_last_image_always() -> None:
    decoded: list[int] = []

    def decode(row: int) -> TrainingImage:
        decoded.append(row)
        return training_image(record(row), 0)

    one = decode(0).nbytes
    decoded.clear()
    cache = ImageCache(decode, int(2.5 * one))
    for row in (0, 1, 0, 2, 0, 1):  # 1 was not used for the longest time when 2 came
        cache(row)
    assert decoded == [0, 1, 2, 1]
    tiny = ImageCache(decode, 1)
    assert tiny(3) is tiny(3)


def test_an_image_is_cached_in_the_type_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    image = training_image(record(0), 0)
    assert (image.stored.dtype, image.instance_map.dtype) == (np.uint8, np.int16)
    assert image.pixels.dtype == np.float32 and image.pixels.max() <= 1
    assert 0 < share_of_memory() < 2**50
