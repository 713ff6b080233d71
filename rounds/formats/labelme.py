"""Reads the JSON files of labelme: X.json beside its image, with a shape for each cell or part of one.

Polygons, rectangles, circles and masks are cells; shapes of one `group_id` and label are parts of one cell. Points and
lines have no area. The label is the class. Source: labelme/label_file.py and labelme/shape.py, versions 3 to 5.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.outlines import Filled, OutlineError, fill, is_speck, to_instances, united
from cellsemi.rounds.cells.rle import Bitmap
from cellsemi.rounds.formats.base import NO_AREA, NO_PIXEL, FileCells, check_left_out, class_ids
from cellsemi.rounds.formats.registry import FormatSpec
from cellsemi.rounds.formats.shared.folder import check_fits
from cellsemi.rounds.formats.shared.folder_scan import HEAD, top_level_keys
from cellsemi.rounds.formats.shared.json_stream import short
from cellsemi.rounds.store.image_codec import decode_label_map
from cellsemi.rounds.store.schemas import ImageRecord

CIRCLE_POINTS = 64
WITHOUT_AREA = ("point", "points", "line", "linestrip")

_REMEDY = "correct it in labelme and save it anew"


def takes(content: bytes) -> bool:
    """Whether a JSON file is labelme's: it has shapes, which belong to an image."""
    return "shapes" in top_level_keys(content[:HEAD].decode("utf-8-sig", errors="replace"))


def read_labelme(content: bytes, path: str, record: ImageRecord) -> FileCells:
    """The cells of a file, in the order of their first shapes, and the labels that they index.

    Left out and counted are points, lines and shapes that cover no pixel. Raises ImageError, naming the shape, for what
    is no file of labelme, states another size than the image has, or holds a shape that is malformed or lies outside,
    and when most shapes are left out.
    """
    shapes = _shapes(content, path, record)
    parts: dict[tuple[object, str], list[Filled]] = {}
    left_out: Counter[str] = Counter()
    for number, shape in enumerate(shapes, start=1):
        place = f"{path}, shape {number}"
        kind, label = shape.get("shape_type") or "polygon", shape.get("label")
        if not isinstance(label, str) or not label.strip():
            raise ImageError(place, f"its label is {short(label)}, expected a name", _REMEDY)
        if kind in WITHOUT_AREA:
            left_out[NO_AREA] += 1
            continue
        part = _filled(shape, kind, place, record)
        if part is None:
            left_out[NO_PIXEL] += 1
            continue
        group = shape.get("group_id")
        parts.setdefault((("shape", number) if group is None else group, label), []).append(part)
    check_left_out(left_out, len(parts), path)
    cells = [united(found, record.height, record.width) for found in parts.values()]
    labels = [label for _, label in parts]
    classes = tuple(sorted(set(labels)))
    ids = class_ids(labels, classes)
    return FileCells(to_instances(cells, record.height, record.width, class_id=ids, state="human"), classes, left_out)


def _shapes(content: bytes, path: str, record: ImageRecord) -> list[dict[str, Any]]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ImageError(path, f"is not JSON ({short(str(error))})", _REMEDY) from None
    shapes = found.get("shapes") if isinstance(found, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise ImageError(path, f"expected a list of shapes, found {short(shapes)}", _REMEDY)
    size = found.get("imageHeight"), found.get("imageWidth")
    if all(type(side) is int for side in size):
        check_fits(path, "the size that it states", *size, record)
    return shapes


def _filled(shape: dict[str, Any], kind: object, place: str, record: ImageRecord) -> Filled | None:
    """The pixels of a shape; None when it covers none because it is too small."""
    points = _points(shape.get("points"), place)
    if kind == "mask":
        return _of_mask(shape.get("mask"), points, place, record)
    ring = _ring(kind, points, place)
    try:
        return fill([ring], record.height, record.width)
    except OutlineError as error:
        if is_speck([ring]):
            return None
        raise ImageError(place, str(error), "is it the file of this image?") from None


def _points(found: Any, place: str) -> NDArray[np.float64]:
    """(N, 2) finite numbers."""
    pairs: list[Any] = found if isinstance(found, list) else [None]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ImageError(place, f"expected points, found {short(found)}", _REMEDY)
    if not {type(value) for pair in pairs for value in pair} <= {int, float}:
        raise ImageError(place, f"a coordinate that is no number: {short(found)}", _REMEDY)
    try:
        return np.array(pairs, np.float64).reshape(-1, 2)
    except OverflowError:
        raise ImageError(place, "a coordinate that lies far outside the image", _REMEDY) from None


def _ring(kind: object, points: NDArray[np.float64], place: str) -> NDArray[np.float64]:
    """The outline of a polygon, a rectangle (two corners) or a circle (its centre, and a point on it)."""
    if kind == "polygon":
        return points
    if kind not in ("rectangle", "circle") or len(points) != 2:
        raise ImageError(place, f"is a {short(kind)} of {len(points)} points", "draw polygons in labelme")
    (x0, y0), (x1, y1) = points.tolist()
    if kind == "rectangle":
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    angle = np.linspace(0, 2 * np.pi, CIRCLE_POINTS, endpoint=False)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    return np.asarray(circle * np.hypot(x1 - x0, y1 - y0) + (x0, y0), np.float64)


def _of_mask(encoded: Any, points: NDArray[np.float64], place: str, record: ImageRecord) -> Filled | None:
    """The pixels of a mask: a PNG in base64 that stands with its upper left corner at the first point."""
    try:
        content = base64.b64decode(encoded or "", validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ImageError(place, f"its mask is no base64: {short(encoded)}", _REMEDY) from None
    crop: Bitmap = decode_label_map(content, place, record.height * record.width) > 0
    if not crop.any():
        return None
    x0, y0 = (int(value) for value in points[0]) if len(points) and np.isfinite(points[0]).all() else (-1, -1)
    if min(x0, y0) < 0 or y0 + crop.shape[0] > record.height or x0 + crop.shape[1] > record.width:
        raise ImageError(place, "its mask lies outside the image", "is it the file of this image?")
    cell = masks.from_crops(record.height, record.width, [(crop, x0, y0)])
    left, top, right, bottom = cell.bbox[0].tolist()
    return Filled(cell.rle[0], (left, top, right, bottom), int(cell.area[0]))


LABELME = FormatSpec("labelme", read_annotation=read_labelme, takes=takes, has_classes=True)
