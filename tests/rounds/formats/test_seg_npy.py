"""Cellpose's _seg.npy: read without running it, written so that Cellpose reads it, damaged ones refused."""

from __future__ import annotations

import os
import pathlib
import pickle
import random
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.cellpose import safe_pickle, seg_npy
from cellsemi.rounds.formats.label_map.writer import to_labels, to_tiff, write
from cellsemi.rounds.store.image_codec import decode_label_map, to_png
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
    cells, classes = seg_npy.read(content, "m/a_seg.npy", record_of(labels))
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


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<u4", "<i4", ">i8", "u8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_masks_of_a_dict_are_read_in_every_integer_type_and_order(dtype: str, order: Any) -> None:
    labels = np.array(LABELS, dtype, order=order)
    assert np.array_equal(masks.to_label_map(read(saved(like_the_gui(labels)))), LABELS)
    assert np.array_equal(masks.to_label_map(read(saved(labels))), LABELS)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_every_protocol_that_numpy_has_saved_with_is_read(protocol: int) -> None:
    array = np.array(like_the_gui(LABELS), dtype=object)
    cells = read(pickled(pickle.dumps(array, protocol)))
    assert np.array_equal(masks.to_label_map(cells), LABELS) and set(cells.state) == {"human"}


def test_a_file_of_numpy_1_names_its_old_module() -> None:
    content = saved({"masks": LABELS}).replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")
    start = content.index(b"\x80\x04\x95") + 3
    (frame,) = struct.unpack("<Q", content[start : start + 8])
    content = content[:start] + struct.pack("<Q", frame - 1) + content[start + 8 :]
    assert b"numpy.core.multiarray" in content and len(read(content)) == 3


def test_cells_that_are_not_numbered_in_a_row_and_no_cells_at_all() -> None:
    sparse = np.where(LABELS == 3, 70_000, LABELS.astype(np.uint32) * 5)
    assert read(saved({"masks": sparse})).area.tolist() == [2, 1, 4]
    assert len(read(saved({"masks": np.zeros((3, 4), np.uint8)}))) == 0


class Evil:
    """Runs a function of its choice when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("name", ["system", "eval", "exec", "getattr"])
def test_a_file_that_would_run_code_is_refused_and_not_run(tmp_path: Path, name: str, protocol: int) -> None:
    mark = tmp_path / "was-here"
    evil = {
        "system": Evil(os.system, f"touch {mark}"),
        "eval": Evil(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Evil(exec, f"open({str(mark)!r}, 'w')"),
        "getattr": Evil(getattr, "", "join"),
    }[name]
    array = np.array({"masks": LABELS, "filename": evil}, dtype=object)
    content = pickled(pickle.dumps(array, protocol))
    refused(content, rf"{name}'.*code in a file is not run|the opcode")
    assert not mark.exists()
    if name == "system":  # the file does what it says when it is loaded
        np.load(BytesIO(content), allow_pickle=True)
        assert mark.exists()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "'os.system'"),
        (b"(S'true'\nios\nsystem\n.", "'os.system'"),
        (b"(cos\nsystem\nS'true'\no.", "'os.system'"),
        (b"cbuiltins\neval\n.", "'builtins.eval'"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "'numpy.core.multiarray.fromfile'"),
        (b"cnumpy\nload\n.", "'numpy.load'"),
        (b"Pid\n.", "the opcode PERSID"),
        (b"K\x01Q.", "the opcode BINPERSID"),
        (b"\x82\x01.", "the opcode EXT1"),
        (b"cnumpy\ndtype\n)\x81.", "the opcode NEWOBJ"),
        (b"cnumpy\ndtype\nK\x01R.", "cannot be decoded"),
        (b"\x8c\x02osK\x01\x93.", "asks for"),
        (b"K\x01K\x02R.", "not a function"),
        (b"K\x01}b.", "a state for what has none"),
        (b"}K\x01a.", "not a list"),
        (b"]K\x01K\x02s.", "not a dict"),
        (b"(K\x01d.", "cannot be decoded"),
        (b"h\x05.", "cannot be decoded"),
        (b"e.", "cannot be decoded"),
        (b"\x85.", "stack is too short"),
        (b".", "cannot be decoded"),
        (b"", "cannot be decoded"),
        (b"K\x01.", "holds no array"),
        (b"\xff.", "cannot be decoded"),
        (b"I" + b"9" * 5000 + b"\n.", "cannot be decoded"),
    ],
)
def test_a_pickle_that_is_no_stored_array_is_refused(program: bytes, words: str) -> None:
    refused(pickled(program), words)


def _reconstructed(shape: bytes, data: bytes, code: bytes = b"u2") -> bytes:
    """The program of {"masks": array}, whose array declares any shape at all."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    dtype = (
        b"cnumpy\ndtype\n(U"
        + bytes([len(code)])
        + code
        + b"I00\nI01\ntR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    masks_array = array + b"(K\x01" + shape + dtype + b"I00\n" + data + b"tb"
    objects = b"cnumpy\ndtype\n(U\x01OI00\nI01\ntR"
    return array + b"(K\x01)" + objects + b"I00\n](" + b"}U\x05masks" + masks_array + b"setb."


def test_a_python_2_pickle_keeps_its_bytes_as_text() -> None:
    data = b"U" + bytes([LABELS.nbytes]) + LABELS.tobytes()
    cells = read(pickled(_reconstructed(b"K\x03K\x04\x86", data)))
    assert np.array_equal(masks.to_label_map(cells), LABELS)


@pytest.mark.parametrize(
    ("shape", "data", "words"),
    [
        (b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", b"U\x00", "2147483647x2147483647 in 0 bytes"),
        (b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x10K\x04\x86", b"U\x00", "no valid shape"),
        (b"\x8b\xa0\x0f\x00\x00" + b"\x7f" * 4000 + b"K\x04\x86", b"U\x00", "no valid shape"),
        (b"J\xff\xff\xff\xffK\x04\x86", b"U\x00", "no valid shape"),
        (b"K\x00K\x04\x86", b"U\x00", "no valid shape"),
        (b"N", b"U\x00", "no valid shape"),
        (b"K\x03K\x04\x86", b"N", "no data"),
        (b"K\x03K\x04\x86", b"]", "no data"),
        (b"K\x03K\x04\x86", b"U\x03abc", "4x3 in 3 bytes"),
        (b"K\x03K\x04\x86", b"V" + "細".encode("raw-unicode-escape") * 24 + b"\n", "4x3 in 0 bytes"),
        (b"K\x03K\x04K\x01\x87", b"U\x00", r"the shape \(3, 4, 1\)"),
        (b"K\x03K\x04\x86", b"T\xff\xff\xff\x7fab", "cannot be decoded"),
        (b"K\x03K\x04\x86", b"\x8e\xff\xff\xff\xff\xff\xff\x00\x00ab", "cannot be decoded"),
    ],
)
def test_an_array_that_declares_more_than_it_holds_is_refused(shape: bytes, data: bytes, words: str) -> None:
    with memory_below(1_000_000):
        refused(pickled(_reconstructed(shape, data)), words)


@pytest.mark.parametrize(
    "program",
    [
        b"K\x01r\xff\xff\xff\x7f.",  # the unpickler of the standard library makes room for all numbers below
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7fK\x01.",  # a frame of 8 EiB
        b"(" * 100_000 + b"t" * 100_000 + b".",  # deep
        b"}" + b")" + b"q\x00h\x00\x86" * 40 + b"K\x01s.",  # a key whose hash takes 2**40 steps
        b"cnumpy\ndtype\n(" + b")" + b"q\x00h\x00\x86" * 40 + b"tR.",  # a name whose text has 2**40 parts
    ],
)
def test_bombs_are_defused(program: bytes) -> None:
    with memory_below(30_000_000):
        refused(pickled(program), "no array|cannot be decoded")


def test_a_file_of_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_pickle, "MAX_OPCODES", 1000)
    refused(pickled(b"N0" * 1000 + b"."), "more than 1000 parts")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"masks": np.zeros((2, 3, 4), np.uint16)}, r"the shape \(2, 3, 4\)"),
        ({"masks": LABELS.astype(np.float32)}, "of type '<f4'"),
        ({"masks": LABELS > 0}, r"of type '\|b1'"),
        ({"masks": LABELS.astype(np.int32) - 1}, "the masks hold -1"),
        ({"masks": LABELS.T.copy()}, "label map is 3x4, the image 4x3"),
        ({"masks": (LABELS > 0) * np.uint8(255)}, "only 0 and 255"),
        ({"masks": LABELS.tolist()}, "no array 'masks' in it; it has: masks"),
        ({"outlines": LABELS, "flows": []}, "no array 'masks' in it; it has: flows, outlines"),
        ({"masks": np.array([[LABELS]], dtype=object)}, "of type"),
        ({"masks": np.zeros((3, 4), [("a", "u1"), ("b", "u1")])}, "of type"),
        ([1, 2], "the masks have the shape"),
        (np.array([{"masks": LABELS}, {"masks": LABELS}], dtype=object), "no array 'masks'"),
        (np.array("a", dtype=object), "no array 'masks'"),
        (LABELS.astype(np.float64), "of type '<f8'"),
        (LABELS[None], r"the shape \(1, 3, 4\)"),
        (np.zeros((3, 4), "M8[s]"), "of type"),
        (np.zeros((3, 4), [("a", "u1")]), "does not describe an array of numbers"),
    ],
)
def test_what_is_no_label_map_of_the_image_is_refused(value: Any, words: str) -> None:
    refused(saved(value), words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an .npy file"),
        (b"PK\x03\x04 an npz", "not an .npy file"),
        (b"\x93NUMPY", "cannot be decoded"),
        (b"\x93NUMPY\x01\x00\xff", "cannot be decoded"),
        (b"\x93NUMPY\x09\x00\x02\x00{}", "cannot be decoded"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "a header of 4294967295 bytes"),
        (plain("{'descr': '<u2', 'fortran_order': False, 'shape': (1000000000000,)}"), "no valid shape"),
        (plain("{'descr': '<u2', 'fortran_order': False, 'shape': (2000000000,)}"), "the shape"),
        (plain("{'descr': '<u2', 'fortran_order': False, 'shape': (1000000, 1000000)}"), "in 0 bytes"),
        (plain("{'descr': '<u2', 'fortran_order': False, 'shape': (3, 4)}", LABELS.tobytes()[:-1]), "in 23 bytes"),
        (plain("{'descr': '<u2', 'fortran_order': False, 'shape': (3, 4)}", LABELS.tobytes() + b"x"), "in 25 bytes"),
        (plain("{'descr': '<u2', 'fortran_order': False, 'shape': (3, " + "4" * 9000 + ")}"), "cannot be decoded"),
        (plain("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (3, 4)}"), "describe"),
        (plain("{'shape': (3, 4)}"), "describe"),
    ],
)
def test_a_damaged_header_is_refused(content: bytes, words: str) -> None:
    refused(content, words)


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # hidden where no test runs
def test_damaged_files_end_in_an_image_error_or_in_cells_and_in_little_memory() -> None:
    draw = random.Random(7)
    originals = [
        saved(like_the_gui(LABELS)),
        saved(LABELS),
        pickled(_reconstructed(b"K\x03K\x04\x86", b"U\x18" + LABELS.tobytes())),
    ]
    good = 0
    with memory_below(16_000_000):
        for number in range(450):
            content = bytearray(originals[number % 3])
            for _ in range(draw.randint(1, 4)):
                content[draw.randrange(len(content))] = draw.randrange(256)
            damaged = bytes(content[: draw.randrange(len(content))] if number % 5 == 0 else content)
            with suppress(ImageError):
                cells = read(damaged)
                assert (cells.height, cells.width) == LABELS.shape
                good += 1
    assert 50 < good < 400


# --- writing ------------------------------------------------------------------------------------------


def test_cellpose_finds_what_it_looks_for(tmp_path: Path) -> None:
    done = seg_npy.write([record_of(LABELS)], tmp_path, ("cell",))
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
    for writer, name in ((seg_npy.write, "a_seg.npy"), (write, "a_masks.tif")):
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
    record = record_of(labels)
    assert record.instances is not None
    drawn = to_labels(record.instances)
    content = seg_npy.to_seg_npy(drawn, record.instances, "a.png")
    independent = np.load(BytesIO(content), allow_pickle=True).item()["masks"]
    from_npy, _ = seg_npy.read(content, "a", record)
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


@pytest.mark.parametrize(("writer", "name"), [(seg_npy.write, "b [1] é_seg.npy"), (write, "b [1] é_masks.tif")])
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
    records = [record_of(LABELS, image_id=name, source="a.tif") for name in ids]
    with pytest.raises(DataError, match=words):
        write(records, tmp_path / "out", ("cell",))
    assert [path for path in tmp_path.iterdir() if path.name != "out"] == []


def test_an_image_that_was_never_annotated_is_not_written_as_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not known to be empty"):
        seg_npy.write([record_of(LABELS).with_(instances=None)], tmp_path, ("cell",))
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
    write([record_of(LABELS, source=source, image=begins + b"..")], tmp_path, ("cell",))
    assert (tmp_path / name).read_bytes() == begins + b".."
