"""Converts COCO's polygons, run lengths as a list and run lengths as a string to one form, checked.

pycocotools draws and codes; it trusts what it is given, so all that could lead it astray is refused first:
numbers that are none, outlines that run far beyond the image, run lengths that do not fill it. No bitmap of the
image is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.cells.outlines import is_speck
from cellsemi.rounds.cells.rle import decode_counts
from cellsemi.rounds.formats.shared.json_stream import short

MAX_OUTLINE_PX = 1_000_000  # length of the rings of one cell; drawing takes about 100 bytes a pixel of it
AREAS_AT_ONCE = 255  # pycocotools 2.0.11 puts the number of masks into a uint8, which numpy 2 refuses from 256 on

_NUMBERS = {int, float}
# Runs of a compressed string: up to 7 characters of 5 bits, all but the last with the bit "more follows".
_COMPRESSED = re.compile(r"(?:[P-o]{0,6}[0-O])+")
_REMEDY = "correct the annotation"
_NO_MASK = "export masks, not boxes"

PlaceOfCell = Callable[[int], str]


def to_rles(segmentations: Sequence[Any], height: int, width: int, place: PlaceOfCell) -> list[bytes]:
    """COCO-compressed RLE (column-major) of each value of "segmentation", as `masks.encode` would write it.

    Rings of polygons are drawn as pycocotools draws them, and united. The image must have fewer than 2**31 pixels,
    which pycocotools counts in 32 bits. Raises ImageError, with `place(i)`, for the first polygon, or else the
    first RLE, that is malformed, does not fit the image of `height` x `width`, or is a box alone.
    """
    polygons = [i for i, value in enumerate(segmentations) if isinstance(value, list)]
    others = [i for i, value in enumerate(segmentations) if not isinstance(value, list)]
    drawn = _draw([segmentations[i] for i in polygons], height, width, lambda i: place(polygons[i]))
    coded = _code([segmentations[i] for i in others], height, width, lambda i: place(others[i]))
    found = dict(zip(polygons, drawn, strict=True)) | dict(zip(others, coded, strict=True))
    return [found[i] for i in range(len(segmentations))]


def is_mark(segmentation: Any) -> bool:
    """Whether polygons have one or two points each, as stray clicks leave them: nothing that has an area."""
    return isinstance(segmentation, list) and bool(segmentation) and all(map(_is_short, segmentation))


def without_marks(segmentation: Any) -> Any:
    """Polygons without the rings of one or two points; anything else as it is."""
    if not isinstance(segmentation, list) or not any(map(_is_short, segmentation)):
        return segmentation
    return [ring for ring in segmentation if not _is_short(ring)]


def is_empty(segmentation: Any) -> bool:
    """Whether a segmentation that covers no pixel is a speck of a polygon, or run lengths of nothing.

    A larger polygon that covers none lies outside the image.
    """
    if not isinstance(segmentation, list):
        return True
    return is_speck([np.asarray(ring, np.float64).reshape(-1, 2) for ring in segmentation])


def areas_of(rles: Sequence[bytes], height: int, width: int) -> NDArray[np.int64]:
    """int64 (N,): the pixels of each mask."""
    coded = [{"size": [height, width], "counts": rle} for rle in rles]
    parts = [coco.area(coded[i : i + AREAS_AT_ONCE]) for i in range(0, len(coded), AREAS_AT_ONCE)]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def measure(rles: Sequence[bytes], height: int, width: int, place: PlaceOfCell) -> tuple[NDArray[Any], NDArray[Any]]:
    """Boxes int32 (N, 4) as x0, y0, x1, y1, half-open, and areas int64 (N,); ImageError for a mask without a pixel."""
    if not rles:
        return np.zeros((0, 4), np.int32), np.zeros(0, np.int64)
    areas = areas_of(rles, height, width)
    empty = np.flatnonzero(areas == 0)
    if len(empty):
        raise ImageError(place(int(empty[0])), "the annotation covers no pixel", _REMEDY)
    coded = [{"size": [height, width], "counts": rle} for rle in rles]
    boxes = np.asarray(coco.toBbox(coded)).astype(np.int32)
    boxes[:, 2:] += boxes[:, :2]
    return boxes, areas


def _is_short(ring: Any) -> bool:
    """Whether a ring has one or two points."""
    return isinstance(ring, list) and len(ring) in (2, 4) and set(map(type, ring)) <= _NUMBERS


# --- polygons -----------------------------------------------------------------------------------------


def _draw(polygons: list[Any], height: int, width: int, place: PlaceOfCell) -> list[bytes]:
    """The RLE of each polygon, a list of rings. All rings are drawn in one call."""
    if not polygons:
        return []
    for i, rings in enumerate(polygons):
        _check_rings(rings, place, i)
    lengths = np.array([len(ring) for rings in polygons for ring in rings])
    rings_of = np.array([len(rings) for rings in polygons])
    owner = np.repeat(np.arange(len(polygons)), rings_of)
    flat = _flat(polygons, int(lengths.sum()), place)
    ends = np.cumsum(lengths)
    _check_coordinates(flat, ends, owner, height, width, place)
    drawn = coco.frPyObjects(np.split(flat, ends[:-1]), height, width)
    found: list[bytes] = []
    first = 0
    for count in rings_of.tolist():
        united = drawn[first] if count == 1 else coco.merge(drawn[first : first + count])
        found.append(united["counts"])
        first += count
    return found


def _check_rings(rings: list[Any], place: PlaceOfCell, i: int) -> None:
    """ImageError unless all rings are lists of numbers, of an even length from 6 on."""
    if not rings or rings == [[]]:
        raise ImageError(place(i), "its segmentation is empty; a box is no mask", _NO_MASK)
    for ring in rings:
        if not isinstance(ring, list):
            raise ImageError(place(i), f"expected a list of rings as segmentation, found {short(rings)}", _REMEDY)
        if len(ring) < 6 or len(ring) % 2:
            problem = f"a ring of {len(ring)} numbers, expected x and y of at least three points"
            raise ImageError(place(i), problem, _REMEDY)
        if not set(map(type, ring)) <= _NUMBERS:
            odd = next(value for value in ring if type(value) not in _NUMBERS)
            raise ImageError(place(i), f"a coordinate that is no number: {short(odd)}", _REMEDY)


def _flat(polygons: list[Any], count: int, place: PlaceOfCell) -> NDArray[np.float64]:
    try:
        return np.fromiter(chain.from_iterable(chain.from_iterable(polygons)), np.float64, count)
    except OverflowError:
        far = (i for i, rings in enumerate(polygons) if any(abs(value) > 1e300 for ring in rings for value in ring))
        raise ImageError(place(next(far)), "a coordinate that lies far outside the image", _REMEDY) from None


def _check_coordinates(
    flat: NDArray[np.float64],
    ends: NDArray[np.int64],
    owner: NDArray[np.int64],
    height: int,
    width: int,
    place: PlaceOfCell,
) -> None:
    """ImageError for points beyond [-W, 2W] x [-H, 2H] and for outlines longer than MAX_OUTLINE_PX."""
    points = flat.reshape(-1, 2)
    inside = (points >= (-width, -height)) & (points <= (2 * width, 2 * height))
    outside = np.flatnonzero(~inside.all(axis=1))
    if len(outside):
        i = int(owner[np.searchsorted(ends, 2 * outside[0], side="right")])
        x, y = points[outside[0]].tolist()
        raise ImageError(place(i), f"the point ({x:g}, {y:g}) lies far outside the image of {width}x{height}", _REMEDY)
    ends = ends // 2
    starts = np.concatenate([[0], ends[:-1]])
    before = np.arange(len(points)) - 1
    before[starts] = ends - 1
    steps = np.abs(points - points[before]).max(axis=1)
    of_cell = np.add.reduceat(steps, starts[np.flatnonzero(np.diff(owner, prepend=-1))])
    long = np.flatnonzero(of_cell > MAX_OUTLINE_PX)
    if len(long):
        problem = f"an outline {of_cell[long[0]]:.0f} pixels long, the limit is {MAX_OUTLINE_PX}"
        raise ImageError(place(int(long[0])), problem, _REMEDY)


# --- run lengths --------------------------------------------------------------------------------------


def _code(segmentations: list[Any], height: int, width: int, place: PlaceOfCell) -> list[bytes]:
    size = [height, width]
    runs = [{"counts": _runs(each, height, width, place(i)), "size": size} for i, each in enumerate(segmentations)]
    return [coded["counts"] for coded in coco.frPyObjects(runs, height, width)] if runs else []


def _runs(segmentation: Any, height: int, width: int, place: str) -> NDArray[np.int64]:
    """The run lengths (background first) of an RLE dict, no empty ones between; ImageError when it is malformed."""
    if segmentation is None:
        raise ImageError(place, "it has no segmentation; a box is no mask", _NO_MASK)
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        problem = f"expected rings, or counts and size, as segmentation, found {short(segmentation)}"
        raise ImageError(place, problem, _REMEDY)
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width]:
        problem = f"the size of its RLE is {short(size)}, expected [height, width] = {[height, width]}"
        raise ImageError(place, problem, "export it anew")
    found = _decoded(counts, height * width, place) if isinstance(counts, str) else _listed(counts, place)
    pixels = height * width
    wrong = len(found) > pixels + 1 or ((found < 0) | (found > pixels)).any()
    if wrong or found.sum() != pixels:
        problem = f"its {len(found)} run lengths do not fill the image of {width}x{height} pixels"
        raise ImageError(place, problem, _REMEDY)
    return _without_empty(found)


def _decoded(counts: str, pixels: int, place: str) -> NDArray[np.int64]:
    """The run lengths of a compressed string; its values stay below 2**35, so that their sums cannot overflow."""
    if len(counts) > 7 * (pixels + 1) or not _COMPRESSED.fullmatch(counts):
        raise ImageError(place, f"its RLE string is damaged: {short(counts)}", _REMEDY)
    return decode_counts(counts.encode("ascii"))


def _listed(counts: Any, place: str) -> NDArray[np.int64]:
    """The run lengths of a list of whole numbers."""
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        raise ImageError(place, f"expected whole numbers as counts of its RLE, found {short(counts)}", _REMEDY)
    if any(abs(count) >= 2**35 for count in counts):
        raise ImageError(place, f"a run length of its RLE is beyond all images: {short(counts)}", _REMEDY)
    return np.array(counts, dtype=np.int64)


def _without_empty(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same runs with those of length 0 left out (but for a first one) and their neighbours joined."""
    filled = np.flatnonzero(counts)
    value = filled % 2
    starts = np.flatnonzero(np.diff(value, prepend=-1))
    joined = np.add.reduceat(counts[filled], starts)
    return np.concatenate([[0], joined]) if value[0] else joined
