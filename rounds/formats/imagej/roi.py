"""Converts one ImageJ ROI from its bytes to rings and back, by the package roifile.

ImageJ's convention is that of outlines.py: the pixel (x, y) is the square from (x, y) to (x + 1, y + 1), and
belongs to a ROI that holds its centre (ij.process.PolygonFiller; OvalRoi; composites are even-odd, ShapeRoi).
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import roifile
from numpy.typing import NDArray
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells.outlines import MAX_CROSSINGS, Polygon

HEADER_BYTES = 64
KINDS = ("polygon", "rectangle", "oval", "straight line", "freehand line", "segmented line", "empty selection",
         "freehand", "traced", "angle", "point")  # fmt: skip
AREAS = {"polygon", "rectangle", "oval", "freehand", "traced"}
SUBTYPES = ("", "text", "arrow", "ellipse", "image", "rotated rectangle")
NO_CELLS = {"text", "arrow", "image"}
VERSION = 228  # of the format, as ImageJ 1.53 writes it
MAX_GROUP = 255
MAX_SIDE = 32767  # from here on ImageJ's 16-bit coordinates are ambiguous
OVAL_TIE_PX = 1e-9  # px; centres on the very outline of an oval are inside

_MOVE, _LINE, _CLOSE = 0.0, 1.0, 4.0  # java.awt.geom.PathIterator
_DAMAGE = (ValueError, TypeError, ArithmeticError, LookupError, RuntimeError, AssertionError, struct.error)
_REMEDY = "correct it in ImageJ's ROI Manager and save it anew"

logging.getLogger(roifile.__name__).addHandler(logging.NullHandler())  # what it warns of is judged here


@dataclass(frozen=True, slots=True)
class Roi:
    """`rings` fill by the even-odd rule; `group` is 0 for none; `plane` the slice and frame, 0 for none."""

    rings: list[NDArray[Any]]
    group: int
    plane: tuple[int, int, int]


def decode(content: bytes, place: str, width: int) -> Roi:
    """The ROI that `content` holds, for an image of so many columns.

    Raises ImageError, naming `place`, for bytes that are damaged and for what `has_area` says to be none.
    """
    if not has_area(content, place):
        raise ImageError(place, "is a ROI without an area", _REMEDY)
    try:
        found = ImagejRoi.frombytes(content)
        rings = _rings(found, place, width)
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(place, f"cannot be decoded: {reason}", "the ROI is damaged; save it anew") from error
    return Roi(rings, int(found.group), (found.position, found.z_position, found.t_position))


def encode(polygons: Sequence[Polygon], name: str, group: int) -> bytes:
    """The bytes of a ROI: a traced one, or a composite where there are holes, several parts or large coordinates.

    `group` is 0 for none, at most MAX_GROUP.
    """
    rings = [ring for polygon in polygons for ring in polygon]
    low = np.min([ring.min(axis=0) for ring in rings], axis=0)
    high = np.max([ring.max(axis=0) for ring in rings], axis=0)
    roi = ImagejRoi(version=VERSION, name=name, group=group)
    roi.left, roi.top, roi.right, roi.bottom = (int(value) for value in (*low, *high))
    if len(rings) == 1 and high.max() <= MAX_SIDE:
        roi.roitype = ROI_TYPE.TRACED
        roi.n_coordinates = len(rings[0])
        roi.integer_coordinates = (rings[0] - low).astype(np.int32)
    else:
        roi.roitype = ROI_TYPE.RECT
        roi.multi_coordinates = np.concatenate([_path(ring) for ring in rings]).astype(np.float32)
        roi.shape_roi_size = len(roi.multi_coordinates)
    return roi.tobytes()


def _path(ring: NDArray[Any]) -> NDArray[np.float64]:
    steps = np.column_stack([np.full(len(ring), _LINE), ring])
    steps[0, 0] = _MOVE
    return np.append(steps.reshape(-1), _CLOSE)


def has_area(content: bytes, place: str) -> bool:
    """Whether the header is that of an area, not of a point, a line or a text; ImageError when it is no ROI's."""
    if len(content) < HEADER_BYTES or content[:4] != b"Iout":
        raise ImageError(place, "is not an ImageJ ROI", _REMEDY)
    kind, subtype = content[6], int.from_bytes(content[48:50], "big")
    if kind >= len(KINDS) or subtype >= len(SUBTYPES):
        raise ImageError(place, f"is a ROI of the unknown type {kind}, subtype {subtype}", _REMEDY)
    return KINDS[kind] in AREAS and SUBTYPES[subtype] not in NO_CELLS


def _rings(roi: ImagejRoi, place: str, width: int) -> list[NDArray[Any]]:
    if roi.options & ROI_OPTIONS.SPLINE_FIT:
        raise ImageError(place, "is a fitted spline, of which the file holds but the knots", "Edit > Interpolate it")
    if roi.composite and roi.roitype != ROI_TYPE.RECT:
        raise ImageError(place, "says to be a composite and is none", _REMEDY)
    if roi.composite or roi.roitype not in (ROI_TYPE.RECT, ROI_TYPE.OVAL):
        return list(roi.coordinates(multi=True))
    if roi.rounded_rect_arc_size and roi.roitype == ROI_TYPE.RECT:
        raise ImageError(place, "is a rectangle with rounded corners", "Edit > Selection > Convert to polygon")
    x, y, w, h = map(float, (roi.left, roi.top, roi.right - roi.left, roi.bottom - roi.top))
    if roi.subpixelrect:
        x, y, w, h = roi.xd, roi.yd, roi.widthd, roi.heightd
    if not (w >= 0 and h >= 0):
        raise ImageError(place, f"is {w:g} pixels wide and {h:g} high", _REMEDY)
    return [_oval(x, y, w, h, width) if roi.roitype == ROI_TYPE.OVAL else _rectangle(x, y, w, h)]


def _rectangle(x: float, y: float, w: float, h: float) -> NDArray[np.float64]:
    return np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])


def _oval(x: float, y: float, w: float, h: float, width: int) -> NDArray[np.float64]:
    """A ring in steps, a step for each column of pixels: filled it holds the centres that the ellipse holds."""
    if not np.isfinite([x, y, w, h]).all() or min(w, width) > MAX_CROSSINGS:
        return _rectangle(x, y, w, h)  # which `fill` refuses
    first, last = np.ceil(np.clip([x, x + w], 0, width) - 0.5)
    if first >= last:
        return _rectangle(x, y, w, h)  # which holds no centre either
    columns = np.arange(first, last)
    across = (columns + 0.5 - x - w / 2) / (w / 2)
    reach = np.sqrt(np.clip(1 - across**2, 0, None)) * h / 2 + OVAL_TIE_PX
    steps = np.stack([columns, columns + 1], axis=1).reshape(-1)
    upper = np.column_stack([steps, np.repeat(y + h / 2 - reach, 2)])
    lower = np.column_stack([steps, np.repeat(y + h / 2 + reach, 2)])
    return np.concatenate([upper, lower[::-1]])
