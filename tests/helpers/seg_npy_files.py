"""Builds Cellpose's _seg.npy files for the tests of the format."""

from __future__ import annotations

import pathlib
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.cellpose import seg_npy
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.schemas import ImageRecord

LABELS = np.array([[0, 1, 1, 0], [0, 0, 3, 3], [2, 0, 3, 3]], np.uint16)
HEADER = b"\x93NUMPY\x01\x00"


def record_of(labels: NDArray[Any], **changes: Any) -> ImageRecord:
    """A record whose cells are those of a label map, with an image of its size."""
    height, width = labels.shape
    cells = masks.from_label_map(labels, state="human")
    record = ImageRecord("a", height, width, "val", to_png(np.zeros(labels.shape, np.uint8)), "x/a.png")
    return record.with_(instances=cells, **changes)


def saved(value: Any) -> bytes:
    """What np.save makes of a value, a dict included."""
    buffer = BytesIO()
    np.save(buffer, value, allow_pickle=True)
    return buffer.getvalue()


def pickled(program: bytes) -> bytes:
    """An .npy file of an object whose pickle is this program."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }\n"
    return HEADER + struct.pack("<H", len(header)) + header + program


def plain(header: str, data: bytes = b"") -> bytes:
    return HEADER + struct.pack("<H", len(header)) + header.encode("latin-1") + data


def read(content: bytes, labels: NDArray[Any] = LABELS) -> Instances:
    cells, classes = seg_npy.read_seg_npy(content, "m/a_seg.npy", record_of(labels))[:2]
    assert classes == ()
    return cells


def refused(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        read(content)
    assert caught.value.path == "m/a_seg.npy" and caught.value.remedy


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fails when Python's allocations inside grow by more than `limit` bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def like_the_gui(labels: NDArray[Any]) -> dict[str, Any]:
    """The dict of cellpose.gui.io._save_sets (version 4), with a value of every kind that it may hold."""
    return {
        "outlines": labels,
        "colors": np.array([[1, 2, 3]], np.uint8),
        "masks": labels,
        "filename": pathlib.PurePosixPath("x/é.tif").as_posix(),
        "flows": [np.zeros((1, 3, 4, 3), np.uint8), [], np.zeros(0), [[]]],
        "ismanual": np.zeros(3, bool),
        "manual_changes": [["01/02/2024, 10:11:12", "removed mask", [np.array([1, 2]), np.array([3, 4])]]],
        "model_path": Path("models/cpsam"),
        "flow_threshold": np.float64(0.4),
        "normalize_params": {"percentile": [1.0, 99.0], "tile_norm": 0, "norm3D": False, "invert": None},
        "restore": None,
        "ratio": 1.0,
        "diameter": np.float32(30),
    }
