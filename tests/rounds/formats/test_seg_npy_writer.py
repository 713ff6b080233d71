"""Cellpose's _seg.npy and label maps as written: Cellpose reads them, and what is lost is counted."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from helpers.seg_npy_files import (
    LABELS,
    record_of,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cellsemi.configs.errors import DataError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.cellpose import seg_npy
from cellsemi.rounds.formats.label_map.foreground import foreground
from cellsemi.rounds.formats.label_map.writer import to_labels, to_tiff, write_label_maps
from cellsemi.rounds.store.image_codec import decode_label_map
from cellsemi.rounds.store.schemas import ImageRecord


def test_cellpose_finds_what_it_looks_for(tmp_path: Path) -> None:
    done = seg_npy.write_seg_npy([record_of(LABELS)], tmp_path, ("cell",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a_seg.npy"] == sorted(done.files)
    assert (done.images, done.cells, done.losses) == (1, 3, {})
    found = np.load(tmp_path / "a_seg.npy", allow_pickle=True).item()
    assert found["masks"].dtype == np.uint16 and np.array_equal(found["masks"], LABELS)
    assert found["masks"].shape == found["outlines"].shape and found["outlines"].dtype == np.uint16
    assert found["filename"] == "a.png" and found["chan_choose"] == [0, 0]
    assert found["flows"] == [[], [], [], [], [[]]]
    assert found["ismanual"].dtype == bool and found["ismanual"].tolist() == [True] * 3
    assert found["est_diam"] == pytest.approx(2 * np.sqrt(2 / np.pi))  # the median of the areas 2, 1, 4
    assert (tmp_path / "a.png").read_bytes() == record_of(LABELS).image


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    for writer, name in ((seg_npy.write_seg_npy, "a_seg.npy"), (write_label_maps, "a_masks.tif")):
        contents = []
        for run in ("1", "2"):
            writer([record_of(LABELS.copy())], tmp_path / run, ("cell",))
            contents.append((tmp_path / run / name).read_bytes())
        assert contents[0] == contents[1]


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 4)))
def test_outlines_are_the_pixels_at_the_rim_of_a_cell(labels: NDArray[np.uint8]) -> None:
    padded = np.pad(labels.astype(np.int64), 1, constant_values=-1)
    expected = np.zeros_like(labels)
    for y, x in np.argwhere(labels):
        around = [padded[y, x + 1], padded[y + 2, x + 1], padded[y + 1, x], padded[y + 1, x + 2]]
        expected[y, x] = labels[y, x] if any(other != labels[y, x] for other in around) else 0
    assert np.array_equal(seg_npy.outlines(labels.astype(np.uint16)), expected)


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 6)))
def test_cells_without_overlaps_come_back_as_they_were(labels: NDArray[np.uint16]) -> None:
    assume(foreground(labels) is None)
    record = record_of(labels)
    assert record.instances is not None
    drawn = to_labels(record.instances)
    content = seg_npy.to_seg_npy(drawn, record.instances, "a.png")
    independent = np.load(BytesIO(content), allow_pickle=True).item()["masks"]
    from_npy = seg_npy.read_seg_npy(content, "a", record).cells
    from_tiff = masks.from_label_map(decode_label_map(to_tiff(drawn), "a"))
    assert np.array_equal(independent, drawn)
    assert from_npy.rle == from_tiff.rle == record.instances.rle


@pytest.mark.parametrize(("cells", "dtype"), [(0, "uint16"), (65_535, "uint16"), (65_536, "uint32")])
def test_the_label_map_has_16_bits_while_they_suffice(monkeypatch: pytest.MonkeyPatch, cells: int, dtype: str) -> None:
    many = Instances.build(1, 1, [b"01"] * cells, np.tile([0, 0, 1, 1], (cells, 1)), np.ones(cells))
    monkeypatch.setattr(masks, "to_label_map", lambda found: np.array([[len(found)]], np.int32))  # 4 s for as many
    drawn = to_labels(many)
    assert drawn.dtype == dtype and drawn.tolist() == [[cells]]
    read_back = tifffile.imread(BytesIO(to_tiff(drawn)))
    assert read_back.dtype == dtype and read_back.tolist() == [[cells]]


def overlapping() -> ImageRecord:
    """Four cells: 0 loses two of four pixels to 1, 2 is covered whole by 1, 3 is ignored."""
    crops = [(np.ones((1, 4), bool), 0, 0), (np.ones((1, 4), bool), 2, 0), (np.ones((1, 2), bool), 2, 0)]
    cells = masks.from_crops(
        3, 8, [*crops, (np.ones((1, 2), bool), 0, 2)],
        score=[0.5, 0.9, 0.4, 1], class_id=[0, 1, 0, 0], state=["predicted", "predicted", "accepted", "ignored"],
    )  # fmt: skip
    return ImageRecord("b [1] é", 3, 8, "val", None, "generated", instances=cells)


@pytest.mark.parametrize(
    ("writer", "name"), [(seg_npy.write_seg_npy, "b [1] é_seg.npy"), (write_label_maps, "b [1] é_masks.tif")]
)
def test_what_the_format_cannot_say_is_counted(tmp_path: Path, writer: Any, name: str) -> None:
    done = writer([overlapping()], tmp_path, ("x", "y"))
    assert done.losses == {
        "ignored cells": 1,
        "pixels given to a higher-scored cell": 4,
        "cells covered whole by others": 1,
        "cells whose score is not written": 2,
        "cells whose class is not written": 2,
        "images not in the table": 1,
    }
    assert (done.images, done.cells, done.files) == (1, 2, [name])
    content = (tmp_path / name).read_bytes()
    expected = [[1, 1, 2, 2, 2, 2, 0, 0], [0] * 8, [0] * 8]
    if name.endswith(".tif"):
        assert decode_label_map(content, name).tolist() == expected
    else:
        found = np.load(BytesIO(content), allow_pickle=True).item()
        assert found["masks"].tolist() == expected and not found["ismanual"].any()


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (("a", "a"), "image id 'a' comes twice"),
        (("a", "a_masks"), "a_masks.tif: the images 'a' and 'a_masks' need it both"),
        (("../a",), "holds '/'"),
    ],
)
def test_no_file_is_written_over_another_or_outside(tmp_path: Path, ids: tuple[str, ...], words: str) -> None:
    records = [record_of(LABELS, image_id=name, source="a.tif", image=to_tiff(LABELS)) for name in ids]
    with pytest.raises(DataError, match=words):
        write_label_maps(records, tmp_path / "out", ("cell",))
    assert [path for path in tmp_path.iterdir() if path.name != "out"] == []


def test_an_image_that_was_never_annotated_is_not_written_as_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not known to be empty"):
        seg_npy.write_seg_npy([record_of(LABELS).with_(instances=None)], tmp_path, ("cell",))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "begins", "name"),
    [
        ("x/y.JPG", b"\xff\xd8\xff", "a.jpg"),
        ("x/y.tiff", b"II*\0", "a.tiff"),
        ("generated", b"\x89PNG", "a.png"),
        ("generated", b"\xff\xd8\xff", "a.jpg"),
        ("", b"II*\0", "a.tif"),
    ],
)
def test_an_image_keeps_its_bytes_and_its_extension(tmp_path: Path, source: str, begins: bytes, name: str) -> None:
    write_label_maps([record_of(LABELS, source=source, image=begins + b"..")], tmp_path, ("cell",))
    assert (tmp_path / name).read_bytes() == begins + b".."
