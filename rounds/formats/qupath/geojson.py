"""Reads and writes GeoJSON as QuPath does: a feature per cell, its outline in pixels of the image.

A file holds a FeatureCollection, a list of features or one feature; it may be compressed, as .geojson.gz or as the
one .geojson in a .zip. Of a cell with a nucleus the outline of the
cell is taken. QuPath ignores classes whose name ends in `*`, and writes NaN among its measurements.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances, State
from cellsemi.rounds.cells.outlines import Filled, OutlineError, Polygon, fill, is_speck, to_instances, trace
from cellsemi.rounds.colours import GREY, PALETTE
from cellsemi.rounds.formats.base import (
    NO_AREA,
    NO_PIXEL,
    REGION,
    UNCLASSIFIED,
    Exported,
    FileCells,
    check_left_out,
    class_ids,
)
from cellsemi.rounds.formats.qupath.feature_stream import features
from cellsemi.rounds.formats.registry import FormatSpec
from cellsemi.rounds.formats.shared.json_stream import short
from cellsemi.rounds.formats.shared.per_image import write_each
from cellsemi.rounds.formats.shared.unpack import ZIP, unpacked, zipped_name
from cellsemi.rounds.store.schemas import ImageRecord

IGNORED = "Ignore*"  # QuPath's class of what is not to be counted
ENDINGS = (".geojson", ".json")
REGIONS = f"regions of QuPath's class {REGION}"
SCORE_DIGITS = 6

_CELLS = ("annotation", "detection", "cell")  # of QuPath's kinds of objects; the others hold cells
_HOLDERS = ("PathTileObject", "TMACoreObject", "PathRootObject")  # their ids in QuPath 0.2
_WITHOUT_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")
_NUMBERS = {int, float}
_REMEDY = "export it anew"


def read_geojson(content: bytes, path: str, record: ImageRecord) -> FileCells:
    """The cells of a file, in its order, with their class names; () when no cell has a class.

    Cells without a class are "unclassified" where others have one. Those with `isIgnored`, or whose class ends
    in `*`, are in the state "ignored". Left out and counted are points, lines, specks and the regions of interest of
    QuPath's class `Region*`. Raises ImageError, naming the feature, for what is no GeoJSON, has an unknown geometry,
    lies outside the image, or is no cell (tiles, TMA cores), and when most features are points, lines or specks.
    """
    cells: list[Filled] = []
    names: list[str] = []
    states: list[State] = []
    planes: set[str] = set()
    left_out: Counter[str] = Counter()
    regions: list[Filled] = []
    for number, feature in enumerate(features(unpacked(content, path, ENDINGS), path), start=1):
        place = f"{path}, feature {number}"
        properties = _properties(feature, place)
        geometry = feature.get("geometry")
        name = _class_name(properties, place)
        if isinstance(geometry, dict) and geometry.get("type") in _WITHOUT_AREA:
            left_out[NO_AREA] += 1
            continue
        rings = _rings(geometry, place)
        try:
            cells.append(fill(rings, record.height, record.width))
        except OutlineError as error:
            if not is_speck(rings):
                raise ImageError(place, str(error), "is it the file of this image?") from None
            left_out[NO_PIXEL] += 1
            continue
        if name == REGION:
            regions.append(cells.pop())
            continue
        ignored = name.endswith("*") or properties.get("isIgnored") is True
        names.append("" if name.endswith("*") else name)
        states.append("ignored" if ignored else "human")
        planes.add(_plane(geometry))
        if len(planes) > 1:
            raise ImageError(place, "lies on another slice of a stack than those before", "export each slice alone")
    check_left_out(left_out, len(cells), path)
    classes, class_id = _classes(names, states)
    instances = to_instances(cells, record.height, record.width, class_id=class_id, state=states)
    left_out += Counter({REGIONS: len(regions)})
    return FileCells(instances, classes, left_out, to_instances(regions, record.height, record.width))


def write_geojson(records: Iterable[ImageRecord], out: Path, classes: Sequence[str]) -> Exported:
    """Write OUT/ID.geojson for each image, a feature per cell, and the image beside it.

    Human cells are annotations, others detections with a measurement "score". Ignored cells are of the class
    "Ignore*" (their own is lost, and counted where there are several). Overlaps, holes and parts are kept. Raises
    as `write_each` does, and DataError for a class that QuPath would ignore.
    """
    starred = [name for name in classes if name.endswith("*")]
    if starred:
        raise DataError(f"class {starred[0]!r}: QuPath ignores classes whose name ends in `*`; give it another name")
    return write_each(records, out, ".geojson", lambda cells, _, done: _collection(cells, done, classes))


# --- reading ------------------------------------------------------------------------------------------


def _properties(feature: Any, place: str) -> dict[str, object]:
    """The properties of a feature; ImageError when it is none, or holds cells instead of being one."""
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise ImageError(place, f"expected a Feature, found {short(feature)}", _REMEDY)
    properties = feature.get("properties")
    if properties is None:
        properties = {}
    if not isinstance(properties, dict):
        raise ImageError(place, f"expected an object as properties, found {short(properties)}", _REMEDY)
    stated, legacy = properties.get("objectType", "cell"), feature.get("id", "")
    kind = legacy if legacy in _HOLDERS else stated
    if kind not in _CELLS:
        raise ImageError(place, f"is a {short(kind)}, expected a cell", "export annotations, detections or cells only")
    return properties


def _rings(geometry: Any, place: str) -> list[NDArray[np.float64]]:
    """The rings of a geometry, all together: its parts do not overlap."""
    kind = geometry.get("type") if isinstance(geometry, dict) else geometry
    if kind not in ("Polygon", "MultiPolygon"):
        raise ImageError(place, f"its geometry is {short(kind)}, expected Polygon or MultiPolygon", _REMEDY)
    polygons = geometry.get("coordinates")
    polygons = [polygons] if kind == "Polygon" else polygons
    if not isinstance(polygons, list) or not all(isinstance(polygon, list) for polygon in polygons):
        raise ImageError(place, f"expected lists of rings as coordinates, found {short(polygons)}", _REMEDY)
    return [_ring(ring, place) for polygon in polygons for ring in polygon]


def _ring(ring: Any, place: str) -> NDArray[np.float64]:
    if not isinstance(ring, list) or not all(isinstance(point, list) and len(point) in (2, 3) for point in ring):
        raise ImageError(place, f"expected a ring of points, found {short(ring)}", _REMEDY)
    numbers = list(chain.from_iterable(point[:2] for point in ring))
    if not set(map(type, numbers)) <= _NUMBERS:
        odd = next(value for value in numbers if type(value) not in _NUMBERS)
        raise ImageError(place, f"a coordinate that is no number: {short(odd)}", _REMEDY)
    try:
        points = np.array(numbers, dtype=np.float64).reshape(-1, 2)
    except OverflowError:
        raise ImageError(place, "a coordinate that lies far outside the image", _REMEDY) from None
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    return points


def _class_name(properties: dict[str, object], place: str) -> str:
    """The name of the class of a feature, that of QuPath's derived classes "Tumor: Positive"; "" for none."""
    classification = properties.get("classification")
    if classification is None:
        return ""
    name: Any = classification
    if isinstance(classification, dict):
        name = classification.get("name", classification.get("names", ""))
    parts = name if isinstance(name, list) else [name or ""]
    if not all(isinstance(part, str) for part in parts):
        raise ImageError(place, f"its classification is {short(classification)}, expected a name", _REMEDY)
    return ": ".join(parts).strip()


def _plane(geometry: Any) -> str:
    """Slice and frame of a geometry, for comparison."""
    plane = geometry.get("plane")
    return repr((plane.get("z"), plane.get("t"))) if isinstance(plane, dict) else repr((0, 0))


def _classes(names: Sequence[str], states: Sequence[State]) -> tuple[tuple[str, ...], Any]:
    """The class names, sorted, and the class id of each cell; ignored cells without a class have any."""
    if not any(names):
        return (), 0
    stated = [name or (UNCLASSIFIED if state == "human" else "") for name, state in zip(names, states, strict=True)]
    classes = tuple(sorted(set(stated) - {""}))
    return classes, class_ids((name or classes[0] for name in stated), classes)


# --- writing ------------------------------------------------------------------------------------------


def _collection(cells: Instances, done: Exported, classes: Sequence[str]) -> bytes:
    lines = []
    for i, (crop, x0, y0) in enumerate(masks.crops(cells)):
        feature = {
            "type": "Feature",
            "geometry": _geometry(trace(crop, x0, y0)),
            "properties": _written_properties(cells, i, classes),
        }
        lines.append(json.dumps(feature, separators=(",", ":"), ensure_ascii=False, allow_nan=False))
    done.cells += len(cells)
    if len(classes) > 1 and "ignored" in cells.state:
        done.losses["classes of ignored cells"] += cells.state.count("ignored")
    return ('{"type":"FeatureCollection","features":[\n' + ",\n".join(lines) + "]}\n").encode()


def _geometry(polygons: Sequence[Polygon]) -> dict[str, object]:
    """A Polygon or a MultiPolygon; its rings close, as GeoJSON has it."""
    closed = [[[*ring.tolist(), ring[0].tolist()] for ring in polygon] for polygon in polygons]
    if len(closed) == 1:
        return {"type": "Polygon", "coordinates": closed[0]}
    return {"type": "MultiPolygon", "coordinates": closed}


def _written_properties(cells: Instances, i: int, classes: Sequence[str]) -> dict[str, object]:
    """The properties of a cell: what QuPath knows about an object."""
    state, class_id = cells.state[i], int(cells.class_id[i])
    ignored = state == "ignored"
    name, colour = (IGNORED, GREY) if ignored else (classes[class_id], PALETTE[class_id % len(PALETTE)])
    properties: dict[str, object] = {
        "objectType": "annotation" if state == "human" else "detection",
        "classification": {"name": name, "color": list(colour)},
    }
    if state != "human":
        properties["measurements"] = {"score": round(float(cells.score[i]), SCORE_DIGITS)}
    return properties


def takes(content: bytes) -> bool:
    """Whether a file may be GeoJSON, compressed or not; a zip archive of something else is not."""
    return not content.startswith(ZIP) or zipped_name(content, ENDINGS) is not None


GEOJSON = FormatSpec(
    "geojson", read_annotation=read_geojson, takes=takes, has_classes=True, writer=write_geojson, writes_folder=True
)
