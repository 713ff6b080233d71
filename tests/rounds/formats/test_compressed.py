"""GeoJSON that QuPath compressed: read within bounds, and told from a ROI set."""

from __future__ import annotations

import gzip
import zipfile
from io import BytesIO

import pytest

from cellsemi.configs.errors import ImageError
from cellsemi.rounds.formats.qupath.geojson import ENDINGS, read_geojson, takes
from cellsemi.rounds.formats.registry import spec_of_file
from cellsemi.rounds.formats.shared.unpack import unpacked
from cellsemi.rounds.store.schemas import ImageRecord

TEXT = (
    b'{"type": "Feature", "properties": {}, "geometry": '
    b'{"type": "Polygon", "coordinates": [[[2, 3], [6, 3], [6, 8], [2, 8]]]}}'
)


def zipped(**files: bytes) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [TEXT, gzip.compress(TEXT), zipped(a_geojson=TEXT), zipped(a_json=TEXT, b_txt=b"")],
    ids=["plain", "gz", "zip", "zip of two"],
)
def test_all_forms_hold_the_same_cell(content: bytes) -> None:
    found = read_geojson(content, "a", ImageRecord("a", 10, 12, ""))
    assert found.cells.area.tolist() == [20] and takes(content)


def test_an_archive_is_given_to_the_format_that_it_holds() -> None:
    assert spec_of_file(".zip", zipped(a_geojson=TEXT)).name == "geojson"
    for other in (zipped(a_roi=b"Iout"), zipped(), b"PK\3\4 cut off", b"no archive"):
        assert spec_of_file(".zip", other).name == ("geojson" if other == b"no archive" else "imagej-rois")
    assert spec_of_file(".json", TEXT).name == "geojson"
    assert spec_of_file(".json", b'{"shapes": []}').name == "labelme"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(TEXT)[:-12], "cut off"),
        (b"\x1f\x8b" + b"x" * 40, "cannot be unpacked"),
        (zipped(a_geojson=TEXT, b_geojson=TEXT), "the archive holds 2 files"),
        (zipped(a_geojson=TEXT)[:-30], "cannot be unpacked"),
        (gzip.compress(bytes(20 << 20)), "unpacks to more than 2"),
        (zipped(a_json=bytes(20 << 20)), "unpacks to more than 2"),
    ],
    ids=["gz that is cut", "gz of noise", "zip of two", "zip that is cut", "gz bomb", "zip bomb"],
)
def test_damaged_and_endless_files_are_refused(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        unpacked(content, "a", ENDINGS)
