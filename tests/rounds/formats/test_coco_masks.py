"""Any polygon and any run lengths are drawn and coded as pycocotools does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.coco_files import (
    H,
    W,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells.rle import encode
from cellsemi.rounds.formats.coco import segmentation as coco_segmentation

# pycocotools' decode is older than numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

POINTS = st.floats(-W, 2 * W).map(lambda x: round(x, 2)) | st.integers(0, W)
RINGS = st.lists(st.tuples(POINTS, st.floats(-H, 2 * H) | st.integers(0, H)), min_size=3, max_size=8)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(RINGS, min_size=1, max_size=3), min_size=1, max_size=4))
def test_any_polygon_is_drawn_as_pycocotools_draws_it(polygons: list[list[list[tuple[float, float]]]]) -> None:
    written = [[[v for point in ring for v in point] for ring in rings] for rings in polygons]
    found = coco_segmentation.to_rles(written, H, W, str)
    for rings, rle in zip(written, found, strict=True):
        expected = coco.decode(coco.merge(coco.frPyObjects(rings, H, W))).astype(bool)
        assert rle == encode(expected)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.integers(1, 7), st.booleans())
def test_any_run_lengths_are_coded_as_their_bitmap_is(runs: list[int], height: int, as_text: bool) -> None:
    width = -(-max(sum(runs), 1) // height)
    runs = [*runs, height * width - sum(runs)][: height * width + 1]
    flat = np.concatenate([np.full(run, i % 2, bool) for i, run in enumerate(runs)])
    coded: Any = {"size": [height, width], "counts": runs}
    if len(flat) != height * width:
        with pytest.raises(ImageError):
            coco_segmentation.to_rles([coded], height, width, str)
        return
    if as_text:
        coded["counts"] = coco.frPyObjects(coded, height, width)["counts"].decode()
    assert coco_segmentation.to_rles([coded], height, width, str) == [encode(flat.reshape(width, height).T)]
