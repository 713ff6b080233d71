"""An image that a model cannot do costs neither the training nor the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellsemi.configs.errors import RunError
from cellsemi.models.base import Image
from cellsemi.models.validation.over_images import over_images
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.shards import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        ImageRecord(f"i{grey}", 8, 8, "val", to_png(np.full((8, 8), grey, np.uint8)), instances=Instances.empty(8, 8))
        for grey in (10, 20, 30)
    ]
    write_folder(tmp_path, rows, 2, "")
    return tmp_path


def grey_unless(*bad: int, error: Exception | None = None):  # type: ignore[no-untyped-def]
    def use(image: Image, _: Instances) -> int:
        if image[0, 0] in bad:
            raise error or ValueError("a\n  pixel")
        return int(image[0, 0])

    return use


def test_the_image_is_left_out_and_the_reason_is_kept(folder: Path) -> None:
    left_out: dict[str, str] = {}
    assert list(over_images(folder, 100, grey_unless(20), left_out)) == [10, 30]
    assert left_out == {"i20": "ValueError: a pixel"}


def test_what_fails_on_every_image_is_raised(folder: Path) -> None:
    with pytest.raises(ValueError, match="pixel"):
        list(over_images(folder, 100, grey_unless(10, 20, 30), {}))


def test_an_error_of_the_run_is_not_the_fault_of_an_image(folder: Path) -> None:
    with pytest.raises(RunError, match="disk"):
        list(over_images(folder, 100, grey_unless(20, error=RunError("disk")), {}))
