"""QuPath's GeoJSON: cells, classes and ignored cells come back as written; foreign files are read, damage is named."""

from __future__ import annotations

import json
import re
import tracemalloc
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.cells.masks import from_crops
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.formats.base import NO_AREA, NO_PIXEL, FileCells
from cellsemi.rounds.formats.qupath import geojson
from cellsemi.rounds.store.schemas import ImageRecord

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))).filter(np.any)
SQUARE = [[2, 3], [6, 3], [6, 5], [2, 5], [2, 3]]

# As QuPath 0.5 exports a cell with its nucleus, an annotation with a hole, and a detection in two parts.
QUPATH = """{"type": "FeatureCollection", "features": [
  {"type": "Feature", "id": "0d6a4f9b-93f2-4e09-8a70-3a4f7c2c6f11",
   "geometry": {"type": "Polygon", "coordinates": [[[2.5, 3], [6.5, 3], [6.5, 7], [2.5, 7], [2.5, 3]]]},
   "nucleusGeometry": {"type": "Polygon", "coordinates": [[[4, 4], [5, 4], [5, 5], [4, 5], [4, 4]]]},
   "properties": {"objectType": "cell", "classification": {"name": "Tumor", "color": [200, 0, 0]}, "isLocked": true,
     "measurements": {"Nucleus: Solidity": NaN, "Cell: Area": 16.0}}},
  {"type": "Feature", "id": "PathAnnotationObject",
   "geometry": {"type": "Polygon", "plane": {"c": -1, "z": 0, "t": 0}, "coordinates": [
     [[10, 1], [16, 1], [16, 7], [10, 7], [10, 1]], [[12, 3], [12, 5], [14, 5], [14, 3], [12, 3]]]},
   "properties": {"classification": {"names": ["Tumor", "Positive"], "color": [9, 9, 9]},
     "measurements": [{"name": "score", "value": Infinity}]}},
  {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [
     [[[0, 10], [3, 10], [3, 12], [0, 12], [0, 10]]], [[[5, 10], [7, 10], [7, 11], [5, 11], [5, 10]]]]},
   "properties": {"objectType": "detection"}},
  {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[20, 0], [22, 0], [22, 2], [20, 2]]]},
   "properties": {"objectType": "annotation", "classification": {"name": "Ignore*", "colorRGB": -1}}},
  {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[23, 0], [25, 0], [25, 2], [23, 2]]]},
   "properties": {"objectType": "annotation", "classification": "Tumor", "isIgnored": true}}
]}"""


def record(**fields: Any) -> ImageRecord:
    return ImageRecord(**{"image_id": "a", "height": 20, "width": 30, "split": ""} | fields)


def cells_of(*crops: tuple[NDArray[np.bool_], int, int], **columns: Any) -> Instances:
    return from_crops(20, 30, crops, **columns)


def read_file(content: str | bytes) -> FileCells:
    return geojson.read_geojson(content.encode() if isinstance(content, str) else content, "a.geojson", record())


def read(content: str | bytes) -> tuple[Instances, tuple[str, ...]]:
    return read_file(content)[:2]


def feature(coordinates: Any = None, kind: Any = "Polygon", **properties: Any) -> dict[str, Any]:
    geometry = {"type": kind, "coordinates": [SQUARE] if coordinates is None else coordinates}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def collection(*features: Any) -> str:
    return json.dumps({"type": "FeatureCollection", "features": features})


def block(x0: int, y0: int, x1: int, y1: int) -> NDArray[np.bool_]:
    mask = np.zeros((20, 30), bool)
    mask[y0:y1, x0:x1] = True
    return mask


# --- reading ------------------------------------------------------------------------------------------


def test_a_file_of_qupath_is_read_with_its_classes_holes_parts_and_ignored_cells() -> None:
    cells, classes = read(QUPATH)
    expected = [
        block(3, 3, 7, 7),
        block(10, 1, 16, 7) ^ block(12, 3, 14, 5),
        block(0, 10, 3, 12) | block(5, 10, 7, 11),
        block(20, 0, 22, 2),
        block(23, 0, 25, 2),
    ]
    assert [decode(rle, 20, 30).tolist() for rle in cells.rle] == [mask.tolist() for mask in expected]
    assert classes == ("Tumor", "Tumor: Positive", "unclassified")
    assert cells.class_id[:3].tolist() == [0, 1, 2] and cells.class_id[4] == 0
    assert cells.state == ("human", "human", "human", "ignored", "ignored")


@pytest.mark.parametrize(
    "content",
    [
        collection(feature()),
        json.dumps([feature()]),
        json.dumps(feature()),
        "\ufeff" + json.dumps(feature(), indent=2) + "\n",
        json.dumps({"features": [feature()], "type": "FeatureCollection", "crs": {"type": "x"}}),
    ],
)
def test_a_collection_a_list_and_a_single_feature_are_the_same(content: str) -> None:
    cells, classes = read(content)
    assert np.array_equal(decode(cells.rle[0], 20, 30), block(2, 3, 6, 5))
    assert classes == () and cells.class_id.tolist() == [0] and cells.state == ("human",)


@pytest.mark.parametrize("content", [collection(), "[]", ' { "features" : [ ] } '])
def test_no_features_are_an_image_without_cells(content: str) -> None:
    cells, classes = read(content)
    assert len(cells) == 0 and (cells.height, cells.width) == (20, 30) and classes == ()


@pytest.mark.parametrize(
    ("said", "classes", "states"),
    [
        ([None, None], (), ("human", "human")),
        ([{}, {"name": ""}], (), ("human", "human")),
        ([{"name": "b"}, {"name": "a"}], ("a", "b"), ("human", "human")),
        ([{"name": "b"}, None], ("b", "unclassified"), ("human", "human")),
        (["Ignore*", None], (), ("ignored", "human")),
        (["Other*", {"name": "a"}], ("a",), ("ignored", "human")),
    ],
)
def test_classes_are_named_where_any_cell_has_one(
    said: list[Any], classes: tuple[str, ...], states: tuple[str, ...]
) -> None:
    cells, found = read(collection(*(feature(classification=value) for value in said)))
    assert (found, cells.state) == (classes, states)
    names = [str(value.get("name")) if isinstance(value, dict) else "" for value in said]
    for name, class_id in zip(names, cells.class_id.tolist(), strict=True):
        assert name not in classes or classes[class_id] == name


WRONG = {
    "its geometry is 'GeometryCollection'": feature([], "GeometryCollection"),
    "its geometry is None": {"type": "Feature", "geometry": None, "properties": {}},
    "its geometry is [1]": {"type": "Feature", "geometry": [1]},
    "its geometry is ['Polygon']": feature(kind=["Polygon"]),
    "expected lists of rings as coordinates, found [None]": {"type": "Feature", "geometry": {"type": "Polygon"}},
    "expected lists of rings as coordinates, found [1, 2]": feature([1, 2], "MultiPolygon"),
    "expected a ring of points, found 7": feature([7]),
    "expected a ring of points, found [[1], [2], [3]]": feature([[[1], [2], [3]]]),
    "expected a ring of points, found [[[2, 3], [6, 3]": feature([[SQUARE]]),
    "a coordinate that is no number: '1'": feature([[["1", 2], [3, 4], [5, 6]]]),
    "a coordinate that is no number: True": feature([[[True, 2], [3, 4], [5, 6]]]),
    "a coordinate that is no number: None": feature([[[None, 2], [3, 4], [5, 6]]]),
    "(nan, 2) lies far outside": feature([[[float("nan"), 2], [3, 4], [5, 6]]]),
    "(3, -inf) lies far outside": feature([[[3, float("-inf")], [3, 4], [5, 6]]]),
    "(61, 2) lies far outside the image of 30x20": feature([[[61, 2], [3, 4], [5, 6]]]),
    "(1e+300, 2) lies far outside": feature([[[1e300, 2], [3, 4], [5, 6]]]),
    "a coordinate that lies far outside": feature([[[10**400, 2], [3, 4], [5, 6]]]),
    "no pixel centre of the image of 30x20": feature([[[40, 1], [45, 1], [45, 5]]]),
    "is a 'tile', expected a cell": feature(objectType="tile"),
    "is a 'tmaCore', expected a cell": feature(objectType="tmaCore"),
    "is a ['cell'], expected a cell": feature(objectType=["cell"]),
    "is a 'PathTileObject', expected a cell": feature() | {"id": "PathTileObject"},
    "expected an object as properties, found [1]": feature() | {"properties": [1]},
    "its classification is 7": feature(classification=7),
    "its classification is {'name': 7}": feature(classification={"name": 7}),
    "its classification is {'names': ['a', None]}": feature(classification={"names": ["a", None]}),
    "expected a Feature, found 5": 5,
    "expected a Feature, found {'coordinates': [[[": feature()["geometry"],
}


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        (feature([1, 2], "Point"), NO_AREA),
        (feature([[1, 2], [3, 4]], "MultiPoint"), NO_AREA),
        (feature(SQUARE, "LineString"), NO_AREA),
        (feature([[[1, 1], [2, 2], [1, 1]]]), NO_PIXEL),
        (feature([[]]), NO_PIXEL),
        (feature([]), NO_PIXEL),
        (feature([[[5.1, 5.1], [5.4, 5.1], [5.4, 5.4]]]), NO_PIXEL),
    ],
)
def test_points_lines_and_specks_are_left_out_and_counted_but_not_where_they_are_most(
    mark: dict[str, Any], reason: str
) -> None:
    cells, _, left_out, _ = read_file(collection(feature(), mark))
    assert len(cells) == 1 and left_out == {reason: 1}
    with pytest.raises(ImageError, match=r"^a.geojson: most of its annotations cannot be cells: 2 annotations.*1 can"):
        read(collection(feature(), mark, mark))


def test_regions_of_interest_hold_cells_and_are_none() -> None:
    region = feature([[[0, 0], [30, 0], [30, 20], [0, 20]]], classification={"name": "Region*"})
    cells, classes, left_out, _ = read_file(collection(region, feature()))
    assert (len(cells), cells.state, classes) == (1, ("human",), ())
    assert left_out == {"regions of QuPath's class Region*": 1}


@pytest.mark.parametrize("problem", WRONG)
def test_a_feature_that_is_no_cell_is_named(problem: str) -> None:
    with pytest.raises(ImageError, match=f"^a.geojson, feature 2: .*{re.escape(problem)}"):
        read(collection(feature(), WRONG[problem]))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "character 0: the file ends here"),
        ("{", "Expecting value"),
        ("{}", "neither a Feature nor a FeatureCollection"),
        ("7", "found '7'"),
        ('{"type": "Topology", "objects": {}}', "neither a Feature nor a FeatureCollection"),
        ('{"features": {}}', "expected one of [, found '{'"),
        ('{"features": [], "features": []}', "stands in it twice"),
        (collection(feature())[:-3], "is not GeoJSON (character"),
        (collection() + "x", "something follows the end"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('[{"type": "Feature", "id": ' + "1" * 5000 + "}]", "a number that cannot be read"),
        (b"[\xff]", "is not UTF-8 (invalid start byte at byte 1)"),
    ],
)
def test_what_is_no_geojson_is_refused(content: str | bytes, problem: str) -> None:
    with pytest.raises(ImageError, match=f"^a.geojson: .*{re.escape(problem)}"):
        read(content)


def test_cells_on_several_slices_are_refused() -> None:
    on = [feature(), feature(), feature()]
    for i, z in enumerate((0, 0, 1)):
        on[i]["geometry"]["plane"] = {"c": i, "z": z, "t": 0}
    assert len(read(collection(*on[:2]))[0]) == 2
    with pytest.raises(ImageError, match="feature 3: lies on another slice"):
        read(collection(*on))


def test_damaged_files_end_in_an_image_error_or_a_valid_result_and_take_little_memory() -> None:
    random = Random(0)
    good = re.sub(r"\s+", " ", QUPATH).encode()
    pieces = (
        b"NaN",
        b"1e999",
        b"-1",
        b"{",
        b"]",
        b"[",
        b'"',
        b"null",
        b"true",
        b"99999999999999999999",
        b"\x80",
        b",",
        b":",
    )
    refused = 0
    for _ in range(400):
        content = bytearray(good)
        for _ in range(random.choice((1, 1, 3))):
            at = random.randrange(len(content))
            content[at : at + random.choice((0, 1, 3))] = random.choice(pieces)
        if random.random() < 0.2:
            del content[random.randrange(len(content)) :]
        tracemalloc.start()
        try:
            cells, classes = read(bytes(content))
            assert cells.area.min() > 0 and (not classes or cells.class_id.max() < len(classes))
        except ImageError as error:
            assert str(error).startswith("a.geojson")
            refused += 1
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()
    assert 100 < refused < 400


def test_a_large_file_takes_little_more_memory_than_its_text() -> None:
    ring = [[x / 100, 3.25] for x in range(2_500)] + [[24.5, 6], [1.5, 6]]
    content = collection(*[feature([ring])] * 120).encode()
    tracemalloc.start()
    cells, _ = read(content)
    assert tracemalloc.get_traced_memory()[1] < 2 * len(content)
    tracemalloc.stop()
    assert len(cells) == 120 and len(content) > 3 << 20


# --- writing ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(crops=st.lists(st.tuples(MASKS, st.integers(0, 23), st.integers(0, 13)), max_size=4), data=st.data())
def test_cells_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, crops: list[tuple[NDArray[np.bool_], int, int]], data: st.DataObject
) -> None:
    out = tmp_path_factory.mktemp("geojson")
    ids = [data.draw(st.integers(0, 2)) for _ in crops]
    states = [data.draw(st.sampled_from(["human", "predicted", "accepted", "ignored"])) for _ in crops]
    cells = cells_of(*crops, class_id=np.array(ids, np.int32), state=states)
    classes = ("B cell", 'é"\\', "a")
    done = geojson.write_geojson([record(instances=cells)], out, classes)
    found, names = read((out / "a.geojson").read_bytes())
    assert found.rle == cells.rle and np.array_equal(found.bbox, cells.bbox) and np.array_equal(found.area, cells.area)
    ignored = [state == "ignored" for state in states]
    assert [state == "ignored" for state in found.state] == ignored
    known = [names[i] for i, out in zip(found.class_id, ignored, strict=True) if not out]
    assert known == [classes[i] for i, out in zip(ids, ignored, strict=True) if not out]
    assert (done.images, done.cells) == (1, len(crops))
    assert done.losses["classes of ignored cells"] == sum(ignored)


def test_a_written_file_says_what_qupath_knows_about_an_object(tmp_path: Path) -> None:
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    crops = [(ring, 1, 2), (np.eye(2, dtype=bool), 10, 4), (np.ones((1, 1), bool), 0, 0)]
    cells = cells_of(*crops, class_id=[1, 0, 0], score=[1, 0.25, 1], state=["human", "accepted", "ignored"])
    done = geojson.write_geojson(
        [record(instances=cells, image=b"pixels", source="x/a.jpg")], tmp_path, ("astro", "neuron")
    )
    assert sorted(done.files) == ["a.geojson", "a.jpg"] and (tmp_path / "a.jpg").read_bytes() == b"pixels"
    first, second, third = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert first["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[1, 2], [4, 2], [4, 5], [1, 5], [1, 2]], [[2, 3], [2, 4], [3, 4], [3, 3], [2, 3]]],
    }
    assert first["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "neuron", "color": [86, 180, 233]},
    }
    assert second["geometry"]["type"] == "MultiPolygon" and len(second["geometry"]["coordinates"]) == 2
    assert second["properties"]["objectType"] == "detection"
    assert second["properties"]["measurements"] == {"score": 0.25}
    assert third["properties"]["classification"]["name"] == "Ignore*"


def test_the_same_cells_give_the_same_bytes_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    cells = cells_of((np.ones((2, 3), bool), 4, 6), state="ignored")
    rows = [record(instances=cells), record(image_id="b", instances=cells_of())]
    done = geojson.write_geojson(rows, tmp_path / "one", ("cell",))
    geojson.write_geojson(rows, tmp_path / "two", ("cell",))
    for name in done.files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert done.files == ["a.geojson", "b.geojson"] and (done.images, done.cells) == (2, 1)
    assert done.losses == {"images not in the table": 2}
    assert len(read((tmp_path / "one" / "b.geojson").read_bytes())[0]) == 0


def test_a_class_that_qupath_would_ignore_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"class 'a\*'"):
        geojson.write_geojson([record(instances=cells_of())], tmp_path, ("b", "a*"))
