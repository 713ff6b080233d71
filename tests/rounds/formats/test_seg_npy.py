"""Cellpose's _seg.npy: read without running it, damaged ones refused."""

from __future__ import annotations

import os
import pickle
import random
import struct
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.seg_npy_files import (
    LABELS,
    like_the_gui,
    memory_below,
    pickled,
    plain,
    read,
    refused,
    saved,
)

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.formats.cellpose import safe_pickle


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
        ({"masks": (LABELS > 0) * np.uint8(255)}, "the value 255 stands in 2 pieces"),
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
