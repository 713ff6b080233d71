"""ImageJ's ROI sets: cells come back as they were written, foreign ROIs as ImageJ fills them, damage is named."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from random import Random

import numpy as np
import pytest
import roifile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import from_crops
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.formats.base import NO_AREA, NO_PIXEL
from cellsemi.rounds.formats.imagej import roi_set
from cellsemi.rounds.store.schemas import ImageRecord

POLYGON, RECT, OVAL, LINE, FREELINE, POLYLINE, NONE, FREEHAND, TRACED, ANGLE, POINT = range(11)
MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))).filter(np.any)
TRIANGLE = [(0, 0), (6, 0), (0, 6)]


def record(height: int = 20, width: int = 30, **fields: object) -> ImageRecord:
    return ImageRecord(**{"image_id": "a", "height": height, "width": width, "split": ""} | fields)  # type: ignore[arg-type]


def header(kind: int, box: tuple[int, int, int, int], n: int = 0, **fields: int) -> bytearray:
    """The first 64 bytes of a ROI, by ImageJ's table of them; `box` is x0, y0, x1, y1."""
    x0, y0, x1, y1 = box
    content = bytearray(64)
    struct.pack_into(">4sHBx4hH", content, 0, b"Iout", 227, kind, y0, x0, y1, x1, n)
    places = {
        "size": (36, ">i"),
        "subtype": (48, ">h"),
        "options": (50, ">h"),
        "arc": (54, ">h"),
        "position": (56, ">i"),
    }
    for name, value in fields.items():
        struct.pack_into(places[name][1], content, places[name][0], value)
    return content


def polygon(points: list[tuple[int, int]], kind: int = POLYGON, x0: int = 0, y0: int = 0, **fields: int) -> bytes:
    """A ROI with whole coordinates relative to x0, y0."""
    xs, ys = zip(*points, strict=True)
    head = header(kind, (x0, y0, x0 + max(xs), y0 + max(ys)), len(points), **fields)
    return bytes(head) + struct.pack(f">{2 * len(points)}h", *xs, *ys)


def with_group(content: bytes, group: int) -> bytes:
    """A second header behind a ROI, which holds its group."""
    head = bytearray(content)
    struct.pack_into(">i", head, 60, len(content))
    second = bytearray(64)
    second[30] = group
    return bytes(head) + bytes(second)


def composite(floats: list[float]) -> bytes:
    return bytes(header(RECT, (0, 0, 9, 9), size=len(floats))) + struct.pack(f">{len(floats)}f", *floats)


def square(x: float, y: float, side: float) -> list[float]:
    return [0, x, y, 1, x + side, y, 1, x + side, y + side, 1, x, y + side, 4]


def zipped(*rois: bytes, names: list[str] | None = None, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for i, roi in enumerate(rois):
            archive.writestr(names[i] if names else f"{i}.roi", roi)
    return buffer.getvalue()


def mask_of(content: bytes, height: int = 20, width: int = 30) -> NDArray[np.bool_]:
    cells, _ = roi_set.read_roi_set(content, "a.roi", record(height, width))[:2]
    assert len(cells) == 1
    return decode(cells.rle[0], height, width)


def block(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.bool_]:
    mask = np.zeros((20, 30), bool)
    mask[y0:y1, x0:x1] = True
    return mask


# --- reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [POLYGON, FREEHAND, TRACED])
def test_a_polygon_holds_the_pixels_inside_its_corners(kind: int) -> None:
    corners = [(0, 0), (4, 0), (4, 1), (2, 1), (2, 3), (0, 3)]
    assert np.array_equal(mask_of(polygon(corners, kind, 5, 7)), block(5, 7, 9, 8) | block(5, 7, 7, 10))


def test_subpixel_coordinates_win_over_the_rounded_ones() -> None:
    exact = [(5.6, 7.4), (9.6, 7.4), (9.6, 10.6), (5.6, 10.6)]
    xs, ys = zip(*exact, strict=True)
    content = polygon([(0, 0), (4, 0), (4, 4), (0, 4)], FREEHAND, 6, 7, options=128) + struct.pack(">8f", *xs, *ys)
    assert np.array_equal(mask_of(content), block(6, 7, 10, 11))


def test_a_rectangle_is_its_box_also_in_parts_of_pixels() -> None:
    assert np.array_equal(mask_of(bytes(header(RECT, (2, 3, 9, 5)))), block(2, 3, 9, 5))
    exact = header(RECT, (2, 3, 9, 5), options=128)
    struct.pack_into(">4f", exact, 18, 2.6, 3.4, 4.0, 2.0)
    assert np.array_equal(mask_of(bytes(exact)), block(3, 3, 7, 5))


@pytest.mark.parametrize(
    "box", [(2, 3, 3, 4), (2, 3, 12, 13), (1, 1, 6, 6), (4, 2, 9, 17), (0, 0, 30, 20), (-4, -6, 5, 9)]
)
def test_an_oval_holds_the_pixels_whose_centre_is_in_the_ellipse(box: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = box
    y, x = np.mgrid[:20, :30]
    w, h = x1 - x0, y1 - y0
    across, down = 2 * x + 1 - x0 - x1, 2 * y + 1 - y0 - y1
    assert np.array_equal(mask_of(bytes(header(OVAL, box))), (across * h) ** 2 + (down * w) ** 2 <= (w * h) ** 2)


def test_a_composite_is_filled_by_the_even_odd_rule() -> None:
    content = composite(square(1, 1, 8) + square(3, 3, 2) + square(12, 2, 3))
    assert np.array_equal(mask_of(content), block(1, 1, 9, 9) ^ block(3, 3, 5, 5) | block(12, 2, 15, 5))


def test_cells_come_in_the_order_of_the_archive_and_may_overlap() -> None:
    rois = (polygon(TRIANGLE, x0=9), bytes(header(RECT, (9, 0, 12, 3))))
    cells, classes = roi_set.read_roi_set(zipped(*rois, names=["b.roi", "sub/a.ROI"]), "a.zip", record())[:2]
    assert cells.bbox.tolist() == [[9, 0, 15, 6], [9, 0, 12, 3]] and classes == ()
    assert set(cells.state) == {"human"} and cells.class_id.tolist() == [0, 0]


def test_groups_are_classes_where_any_roi_has_one() -> None:
    rois = [with_group(polygon(TRIANGLE, x0=i), group) for i, group in enumerate((7, 0, 2, 7))]
    cells, classes = roi_set.read_roi_set(zipped(*rois), "a.zip", record())[:2]
    assert classes == ("group 0", "group 2", "group 7") and cells.class_id.tolist() == [2, 0, 1, 2]
    assert roi_set.read_roi_set(zipped(rois[1]), "a.zip", record())[1] == ()


def test_an_archive_without_rois_is_an_image_without_cells() -> None:
    cells, classes = roi_set.read_roi_set(zipped(), "a.zip", record())[:2]
    assert len(cells) == 0 and (cells.height, cells.width) == (20, 30) and classes == ()


def test_what_macos_leaves_in_archives_is_passed_over() -> None:
    content = zipped(b"", polygon(TRIANGLE), b"x", b"y", names=["s/", "s/1.roi", "__MACOSX/s/._1.roi", "s/._1.roi"])
    assert len(roi_set.read_roi_set(content, "a.zip", record())[0]) == 1


def test_rois_of_several_slices_are_refused_and_of_one_are_not() -> None:
    first, second = (polygon(TRIANGLE, position=i) for i in (1, 2))
    assert len(roi_set.read_roi_set(zipped(first, first, polygon(TRIANGLE)), "a.zip", record())[0]) == 3
    with pytest.raises(ImageError, match=r"a.zip, entry '1.roi': .* several slices"):
        roi_set.read_roi_set(zipped(first, second), "a.zip", record())


MARKS = {
    "straight line": bytes(header(LINE, (0, 0, 5, 5))),
    "freehand line": polygon(TRIANGLE, FREELINE),
    "segmented line": polygon(TRIANGLE, POLYLINE),
    "empty selection": bytes(header(NONE, (0, 0, 5, 5))),
    "angle": polygon(TRIANGLE, ANGLE),
    "point": polygon(TRIANGLE, POINT),
    "text": bytes(header(RECT, (0, 0, 5, 5), subtype=1)) + bytes(40),
    "image": bytes(header(RECT, (0, 0, 5, 5), subtype=4)) + bytes(40),
}
SPECKS = {
    "rectangle without width": bytes(header(RECT, (3, 3, 3, 8))),
    "oval without width": bytes(header(OVAL, (3, 3, 3, 8))),
    "polygon without height": polygon([(0, 0), (5, 0), (2, 0)], x0=2, y0=2),
}


@pytest.mark.parametrize(("roi", "reason"), [
    *((roi, NO_AREA) for roi in MARKS.values()),
    *((roi, NO_PIXEL) for roi in SPECKS.values()),
])  # fmt: skip
def test_marks_and_specks_are_left_out_and_counted_but_not_where_they_are_most(roi: bytes, reason: str) -> None:
    cells, _, left_out, _ = roi_set.read_roi_set(zipped(polygon(TRIANGLE), roi), "a.zip", record())
    assert len(cells) == 1 and left_out == {reason: 1}
    with pytest.raises(ImageError, match=r"^a\.roi: most of its annotations cannot be cells: 1 annotations"):
        roi_set.read_roi_set(roi, "a.roi", record())


NO_CELL = {
    "unknown type 77": bytes(header(77, (0, 0, 5, 5))),
    "type 1, subtype 99": bytes(header(RECT, (0, 0, 5, 5), subtype=99)),
    "fitted spline": polygon(TRIANGLE, options=1),
    "rounded corners": bytes(header(RECT, (0, 0, 5, 5), arc=4)),
    "not an ImageJ ROI": b"PNG" * 40,
    "composite and is none": polygon(TRIANGLE, size=4),
    "cannot be decoded": polygon(TRIANGLE)[:-1],
    "cannot be decoded: buffer": bytes(header(POLYGON, (0, 0, 5, 5), 60_000)),
    "not supported": composite([0, 1, 1, 2, 5, 5, 1, 5, 4]),
    "invalid PathIterator": composite([0, 1, 1, 9, 5, 5]),
    "cannot be decoded: cannot convert": composite([0, 1, 1, float("nan"), 5, 5]),
    "far outside": composite([0, 1, 1, 1, float("nan"), 5, 1, 5, 5, 4]),
    "no pixel centre": bytes(header(OVAL, (40, 3, 45, 8))),
}


@pytest.mark.parametrize("problem", NO_CELL)
def test_a_roi_that_is_no_cell_is_named_with_its_kind(problem: str) -> None:
    with pytest.raises(ImageError, match=f"^a.zip, entry '1.roi': .*{problem}"):
        roi_set.read_roi_set(zipped(polygon(TRIANGLE), NO_CELL[problem]), "a.zip", record())
    with pytest.raises(ImageError, match=f"^a.roi: .*{problem}"):
        roi_set.read_roi_set(NO_CELL[problem], "a.roi", record())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("kind", [RECT, OVAL])
def test_boundless_rectangles_and_ovals_are_refused(kind: int, value: float) -> None:
    content = header(kind, (0, 0, 5, 5), options=128)
    struct.pack_into(">4f", content, 18, 1.0, 1.0, value, 4.0)
    with pytest.raises(ImageError, match=r"a\.roi: "):
        roi_set.read_roi_set(bytes(content), "a.roi", record())


def test_an_archive_that_holds_other_files_or_is_encrypted_is_refused() -> None:
    with pytest.raises(ImageError, match=r"entry 'x.txt': is not a .roi file"):
        roi_set.read_roi_set(zipped(b"hello", names=["x.txt"]), "a.zip", record())
    locked = bytearray(zipped(polygon(TRIANGLE)))
    locked[6] |= 1
    locked[locked.index(b"PK\1\2") + 8] |= 1
    with pytest.raises(ImageError, match=r"entry '0.roi': is encrypted"):
        roi_set.read_roi_set(bytes(locked), "a.zip", record())
    with pytest.raises(ImageError, match="packed by method 14"):
        roi_set.read_roi_set(zipped(polygon(TRIANGLE), method=zipfile.ZIP_LZMA), "a.zip", record())


def test_bombs_are_refused_without_unpacking_them() -> None:
    large = zipped(*[bytes(50 << 20)] * 4)
    many = zipped(*[bytes(400_000)] * 20)
    lying = bytearray(zipped(polygon(TRIANGLE) + bytes(100_000)))
    struct.pack_into("<I", lying, lying.index(b"PK\1\2") + 24, 200)  # declares 200 bytes
    crowd = b"PK\3\4" + b"PK\1\2" * 100_001
    for content, problem in ((large, "has 52428800 bytes"), (many, "unpacks to 8000000"), (crowd, "more than 100000")):
        tracemalloc.start()
        with pytest.raises(ImageError, match=problem):
            roi_set.read_roi_set(content, "a.zip", record())
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
    with pytest.raises(ImageError, match=r"a\.roi: has 600000 bytes"):
        roi_set.read_roi_set(polygon(TRIANGLE).ljust(600_000), "a.roi", record())
    with pytest.raises(ImageError, match="cannot be unpacked: Bad CRC"):
        roi_set.read_roi_set(bytes(lying), "a.zip", record())


def test_the_largest_composite_stays_small_in_memory() -> None:
    points = np.array([[1, x % 30, x % 20] for x in range(43_000)], ">f4")
    points[0, 0] = 0
    content = bytes(header(RECT, (0, 0, 9, 9), size=points.size)) + points.tobytes()
    tracemalloc.start()
    roi_set.read_roi_set(zipped(content), "a.zip", record())
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_damaged_files_end_in_an_image_error_or_a_valid_result_and_take_little_memory() -> None:
    random = Random(0)
    rois = [
        polygon(TRIANGLE),
        composite(square(1, 1, 8) + square(3, 3, 2)),
        with_group(bytes(header(OVAL, (1, 1, 9, 9))), 3),
    ]
    files = [*rois, zipped(*rois), zipped(*rois, method=zipfile.ZIP_STORED)]
    refused = 0
    for _ in range(400):
        content = bytearray(random.choice(files))
        for _ in range(random.choice((1, 1, 2, 8))):
            content[random.randrange(len(content))] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
        if random.random() < 0.3:
            del content[random.randrange(len(content)) :]
        tracemalloc.start()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                cells, classes = roi_set.read_roi_set(bytes(content), "a.zip", record())[:2]
            assert len(cells) == 0 or cells.area.min() > 0
            assert not classes or cells.class_id.max() < len(classes)
        except ImageError as error:
            assert str(error).startswith("a.zip")
            refused += 1
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()
    assert 100 < refused < 400


# --- writing ------------------------------------------------------------------------------------------


def cells_of(*crops: tuple[NDArray[np.bool_], int, int], **columns: object) -> Instances:
    return from_crops(20, 30, crops, **columns)


@settings(deadline=None, max_examples=60)
@given(crops=st.lists(st.tuples(MASKS, st.integers(0, 23), st.integers(0, 13)), max_size=4), data=st.data())
def test_cells_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, crops: list[tuple[NDArray[np.bool_], int, int]], data: st.DataObject
) -> None:
    out = tmp_path_factory.mktemp("rois")
    ids = [data.draw(st.integers(0, 2)) for _ in crops]
    cells = cells_of(*crops, class_id=np.array(ids, np.int32), state="human")
    done = roi_set.write_roi_sets([record(instances=cells)], out, ("x", "y", "z"))
    found, classes = roi_set.read_roi_set((out / "a.zip").read_bytes(), "a.zip", record())[:2]
    assert found.rle == cells.rle and np.array_equal(found.bbox, cells.bbox) and np.array_equal(found.area, cells.area)
    assert [classes[i] for i in found.class_id] == [f"group {i + 1}" for i in ids]
    assert (done.images, done.cells) == (1, len(crops))


def test_roifile_reads_the_same_outlines_names_and_groups(tmp_path: Path) -> None:
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    cells = cells_of((np.ones((2, 3), bool), 4, 6), (ring, 10, 3), class_id=[1, 0], score=[0.875, 1], state="accepted")
    roi_set.write_roi_sets([record(instances=cells)], tmp_path, ("astro/cyte", "neuron"))
    first, second = roifile.roiread(tmp_path / "a.zip")
    assert first.roitype == roifile.ROI_TYPE.TRACED and (first.name, first.group) == ("0001-neuron-0.875", 2)
    assert first.coordinates().tolist() == [[4, 6], [7, 6], [7, 8], [4, 8]]
    assert second.composite and (second.name, second.group) == ("0002-astro_cyte-1.000", 1)
    assert sorted(len(path) for path in second.coordinates(multi=True)) == [5, 5]
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["0001-neuron-0.875.roi", "0002-astro_cyte-1.000.roi"]


def test_the_same_cells_give_the_same_bytes_and_the_image_stands_beside(tmp_path: Path) -> None:
    cells = cells_of((np.ones((2, 3), bool), 4, 6), (np.ones((1, 1), bool), 0, 0), state=["human", "ignored"])
    rows = [
        record(instances=cells, image=b"pixels", source="plate 1/a.TIFF"),
        record(image_id="b [1] é", instances=cells_of()),
        record(image_id="c", instances=cells_of(), image=b"\x89PNG..."),
    ]
    done = roi_set.write_roi_sets(rows, tmp_path / "one", ("cell",))
    roi_set.write_roi_sets(rows, tmp_path / "two", ("cell",))
    names = ["a.tiff", "a.zip", "b [1] é.zip", "c.png", "c.zip"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(done.files) == names
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    assert (tmp_path / "one" / "a.tiff").read_bytes() == b"pixels"
    assert (done.images, done.cells) == (3, 1)
    assert done.losses == {"ignored cells": 1, "images not in the table": 1}
    found, classes = roi_set.read_roi_set((tmp_path / "one" / "a.zip").read_bytes(), "a.zip", record())[:2]
    assert len(found) == 1 and classes == ()


def test_a_record_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    cells = cells_of()
    with pytest.raises(DataError, match="'a' comes twice"):
        roi_set.write_roi_sets([record(instances=cells)] * 2, tmp_path, ("cell",))
    with pytest.raises(DataError, match="plain file name"):
        roi_set.write_roi_sets([record(image_id="../a", instances=cells)], tmp_path, ("cell",))
    with pytest.raises(DataError, match="not known to be empty"):
        roi_set.write_roi_sets([record()], tmp_path, ("cell",))


def test_cells_beyond_the_16_bit_coordinates_of_imagej_come_back(tmp_path: Path) -> None:
    crop = np.ones((2, 3), bool)
    cells = from_crops(4, 70_000, [(crop, 10, 1), (crop, 32_766, 1), (crop, 69_990, 1)], state="human")
    roi_set.write_roi_sets([record(4, 70_000, instances=cells)], tmp_path, ("cell",))
    found, _ = roi_set.read_roi_set((tmp_path / "a.zip").read_bytes(), "a.zip", record(4, 70_000))[:2]
    assert found.rle == cells.rle and np.array_equal(found.bbox, cells.bbox)


def test_more_classes_than_imagej_has_groups_stand_in_the_names_and_are_counted(tmp_path: Path) -> None:
    cells = cells_of((np.ones((2, 3), bool), 4, 6), class_id=299, state="human")
    done = roi_set.write_roi_sets([record(instances=cells)], tmp_path, [f"c{i}" for i in range(300)])
    assert done.losses["cells whose class stands in their name only"] == 1
    (roi,) = roifile.roiread(tmp_path / "a.zip")
    assert (roi.name, roi.group) == ("0001-c299-1.000", 0)
