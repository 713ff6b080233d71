"""The images of the scale benchmark: all different, cells as counted; and what its table says of a line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.benchmark_scripts import script
from scipy import ndimage

scale = script("scale")


@pytest.mark.parametrize(("make", "cells"), [(scale.make_image, range(1, 5)), (scale.make_full_image, [280])])
def test_the_cells_of_an_image_lie_apart_and_no_two_images_are_alike(make: object, cells: range) -> None:
    assert callable(make)
    made = [make(number) for number in range(4)]
    for image, labels in made:
        assert image.dtype == np.uint8 and image.shape == labels.shape
        count = len(np.unique(labels)) - 1
        assert count in cells and ndimage.label(labels)[1] == ndimage.label(image > 80)[1] == count
    assert len({image.tobytes() for image, _ in made}) == 4


def test_stages_share_out_what_was_seen(tmp_path: Path) -> None:
    lines = [
        {"event": "stage", "stage": "read images: val", "time": "2026-01-01T00:00:01+00:00"},
        {"event": "finish", "stage": "read images: val", "time": "2026-01-01T00:00:03+00:00"},
    ]
    (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, lines)))
    start = 1767225600.0
    looks = [scale.Look(start + at, 100 + at, at / 2, 2 * at, 0, 0) for at in range(6)]
    found = scale.stages_of(tmp_path, looks)
    assert found["read images"].seconds == 2 and found["read images"].driver_cpu_s == 1.0
    assert found["read images"].driver_peak_mb == 103 and found["read images"].workers_cpu_s == 4.0
    assert found[scale.BETWEEN].seconds == 3 and found[scale.BETWEEN].driver_cpu_s == 1.5
