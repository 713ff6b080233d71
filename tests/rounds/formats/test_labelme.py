"""Files of labelme: each kind of shape against its pixels drawn another way, and every fault by its name."""

from __future__ import annotations

import base64
import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage.draw import polygon2mask

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.formats.base import NO_AREA, NO_PIXEL, FileCells
from cellsemi.rounds.formats.labelme import read_labelme, takes
from cellsemi.rounds.store.schemas import ImageRecord

H, W = 24, 32
SQUARE = [[2, 3], [9, 3], [9, 8], [2, 8]]


def shape(points: Any = SQUARE, kind: str | None = "polygon", label: Any = "cell", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def file(*shapes: Any, **more: Any) -> bytes:
    stated = {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": "a.png", "imageData": None}
    return json.dumps({**stated, "imageHeight": H, "imageWidth": W, **more}).encode()


def read(content: bytes) -> FileCells:
    return read_labelme(content, "a.json", ImageRecord("a", H, W, ""))


def drawn(content: bytes) -> list[NDArray[np.bool_]]:
    cells = read(content).cells
    found = [decode(rle, H, W) for rle in cells.rle]
    for mask, area, (x0, y0, x1, y1) in zip(found, cells.area, cells.bbox, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert area == mask.sum() and [x0, y0, x1, y1] == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return found


def box(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.bool_]:
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def png(mask: NDArray[np.bool_]) -> str:
    buffer = BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_polygons_rectangles_and_masks_are_their_pixels() -> None:
    mask = np.array([[True, False, True], [True, True, True]])
    content = file(
        shape(),
        shape(kind=None),
        shape([[12, 20], [10, 4]], "rectangle"),
        shape([[5, 10], [7, 11]], "mask", mask=png(mask)),
    )
    crop = np.zeros((H, W), bool)
    crop[10:12, 5:8] = mask
    for found, expected in zip(
        drawn(content), [box(2, 3, 9, 8), box(2, 3, 9, 8), box(10, 4, 12, 20), crop], strict=True
    ):
        assert np.array_equal(found, expected)


def test_an_odd_polygon_is_that_of_another_program() -> None:
    ring = [[3.2, 2.7], [20.6, 5.1], [14.3, 19.9], [9.1, 11.2]]
    centres = [[y - 0.5, x - 0.5] for x, y in ring]  # skimage counts from the centre of the first pixel
    (found,) = drawn(file(shape(ring)))
    assert np.array_equal(found, polygon2mask((H, W), np.array(centres)))


def test_a_circle_is_near_the_ellipse_of_another_program() -> None:
    picture = Image.new("1", (W, H))
    ImageDraw.Draw(picture).ellipse((8, 4, 23, 19), fill=1)
    (found,) = drawn(file(shape([[16, 12], [24, 12]], "circle")))
    assert (found ^ np.asarray(picture)).sum() <= 0.05 * found.sum()


def test_shapes_of_one_group_and_label_are_one_cell() -> None:
    parts = [shape(group_id=4), shape([[9, 8], [20, 12]], "rectangle", group_id=4)]
    found = read(file(*parts, shape(label="debris", group_id=4), shape([[5, 5], [12, 10]], "rectangle", group_id=4)))
    assert (len(found.cells), found.classes) == (2, ("cell", "debris"))
    whole = box(2, 3, 9, 8) | box(9, 8, 20, 12) | box(5, 5, 12, 10)
    assert np.array_equal(drawn(file(*parts, shape([[5, 5], [12, 10]], "rectangle", group_id=4)))[0], whole)


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        (shape([[1, 1]], "point"), NO_AREA),
        (shape([[1, 1], [5, 5]], "line"), NO_AREA),
        (shape([[1, 1], [5, 5], [5, 9]], "linestrip"), NO_AREA),
        (shape([[1, 1], [5, 5]]), NO_PIXEL),
        (shape([], "polygon"), NO_PIXEL),
        (shape([[5, 10], [7, 11]], "mask", mask=png(np.zeros((2, 3), bool))), NO_PIXEL),
    ],
)
def test_marks_are_left_out_and_counted(mark: dict[str, Any], reason: str) -> None:
    found = read(file(shape(), mark))
    assert len(found.cells) == 1 and found.left_out == {reason: 1}
    with pytest.raises(ImageError, match="most of its annotations cannot be cells"):
        read(file(mark))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"shapes": [', "is not JSON"),
        (b'{"shapes": 7}', "expected a list of shapes, found 7"),
        (file(5), "expected a list of shapes"),
        (file(imageHeight=H + 1), f"the size that it states is {W}x{H + 1}, the image {W}x{H}"),
        (file(shape(label="")), "shape 1: its label is ''"),
        (file(shape(7)), "shape 1: expected points, found 7"),
        (file(shape([[1, 2, 3]])), "expected points"),
        (file(shape([["1", 2]])), "a coordinate that is no number"),
        (file(shape([[10**400, 2]])), "far outside the image"),
        (file(shape([[100, 2], [105, 2], [105, 9]])), "lies far outside the image"),
        (file(shape([[40, 2], [45, 2], [45, 9]])), "no pixel centre of the image"),
        (file(shape(kind="cuboid")), "is a 'cuboid' of 4 points"),
        (file(shape([[1, 1]], "circle")), "is a 'circle' of 1 points"),
        (file(shape([[5, 10]], "mask", mask="%")), "its mask is no base64"),
        (file(shape([[5, 10]], "mask")), "the file is empty"),
        (file(shape([[30, 10]], "mask", mask=png(np.ones((2, 3), bool)))), "its mask lies outside the image"),
        (file(shape([], "mask", mask=png(np.ones((2, 3), bool)))), "its mask lies outside the image"),
    ],
)
def test_a_fault_is_named(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=f"^a.json.*{words}"):
        read(content)


def test_a_file_of_labelme_is_told_from_geojson_and_coco() -> None:
    assert takes(file()) and takes(b'\xef\xbb\xbf{"version": "3", "shapes": []}')
    for other in (
        b'{"type": "FeatureCollection", "features": []}',
        b"[]",
        b"",
        b'{"images": [{"shapes": 1}]}',
        b"\x1f\x8b",
    ):
        assert not takes(other)
