"""Overlays show the image with the outlines of its cells, at its own size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cellsemi.configs.errors import DataError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.colours import PALETTE
from cellsemi.rounds.formats.overlays import write_overlays
from cellsemi.rounds.store.image_codec import decode_image, to_png
from cellsemi.rounds.store.schemas import ImageRecord

LABELS = np.zeros((20, 30), int)
LABELS[2:8, 3:9], LABELS[10:18, 12:25] = 1, 2


def record(**changes: object) -> ImageRecord:
    pixels = np.tile(np.arange(30, dtype=np.uint8) * 4, (20, 1))
    cells = masks.from_label_map(LABELS, class_id=[0, 1])
    return ImageRecord("x", 20, 30, "", to_png(pixels), "x.png", instances=cells).with_(**changes)


def drawn(folder: Path, classes: tuple[str, ...] = ("a", "b")) -> np.ndarray:
    return decode_image((folder / "x.png").read_bytes(), "x")


def test_cells_are_outlined_in_the_colour_of_their_class(tmp_path: Path) -> None:
    done = write_overlays([record()], tmp_path, ("a", "b"))
    picture = drawn(tmp_path)
    assert (done.images, done.cells, done.files, done.losses) == (1, 2, ["x.png"], {})
    assert picture.shape == (20, 30, 3)
    assert tuple(picture[2, 3]) == PALETTE[0] and tuple(picture[10, 12]) == PALETTE[1]
    inside = picture[12:16, 14:23]
    assert (inside[..., 0] == inside[..., 1]).all(), "the inside of a cell is the image itself"


def test_an_image_that_is_not_there_is_black_and_counted(tmp_path: Path) -> None:
    done = write_overlays([record(image=None)], tmp_path, ("a", "b"))
    assert sum(done.losses.values()) == 1
    assert (drawn(tmp_path)[LABELS == 0] == 0).all()


def test_an_id_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.\."):
        write_overlays([record(image_id="../x")], tmp_path, ("a",))
