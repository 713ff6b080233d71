"""Data sets as people have them: those of ../shared/cases, and small generated ones; what the commands make of them."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
from helpers.terminal import invoke
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.store.shards import read_folder

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
HEIGHT, WIDTH = 40, 56
SPLITS = ("labelled", "unlabelled", "val", "test")

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def case(number: int) -> Path:
    """The folder `data` of a case beside the repository; skips the test where there is none."""
    found = sorted(CASES.glob(f"{number:02d}-*/data"))
    if not found:
        pytest.skip(f"no case {number:02d} beside the repository (../shared/cases)")
    return found[0]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A generated image: discs that are brighter than the ground, the masks of which do not touch."""

    name: str
    pixels: Pixels
    cells: list[Mask]

    @property
    def labels(self) -> NDArray[np.uint16]:
        """The label map, cells numbered from 1."""
        made = np.zeros((HEIGHT, WIDTH), np.uint16)
        for number, cell in enumerate(self.cells, start=1):
            made[cell] = number
        return made


def drawn(number: int, name: str = "") -> Drawn:
    """The picture im1, im2 ..: three discs at places that differ from picture to picture."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    centres = [(10 + number, 10), (28, 26 - number), (12, 44 - number)]
    cells = [(rows - y) ** 2 + (columns - x) ** 2 <= (4 + i) ** 2 for i, (y, x) in enumerate(centres)]
    pixels = np.random.default_rng(number).integers(20, 40, (HEIGHT, WIDTH)).astype(np.uint8)
    for cell in cells:
        pixels[cell] += 100
    return Drawn(name or f"im{number}", pixels, cells)


def save(path: Path, pixels: NDArray[Any], **options: Any) -> None:
    """An image file of the kind that its extension says, the folder with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def outline(mask: Mask) -> list[list[float]]:
    """A polygon whose pixel centres inside are those of a convex mask: its corners row by row, down and up again."""
    rows = np.flatnonzero(mask.any(1))
    left = [(float(np.flatnonzero(mask[y])[0]), float(y)) for y in rows]
    right = [(float(np.flatnonzero(mask[y])[-1] + 1), float(y)) for y in rows]
    down = [[x, y + step] for x, y in right for step in (0, 1)]
    up = [[x, y + step] for x, y in reversed(left) for step in (1, 0)]
    return down + up


@dataclass(frozen=True, slots=True)
class Imported:
    """What `cellsemi data import` wrote: images and cells by split, what it said, the masks by image id."""

    images: dict[str, int]
    cells: int
    ignored: int
    report: dict[str, Any]
    masks: dict[str, list[Mask]] = field(default_factory=dict)


def imported(path: Path, out: Path, *settings: str) -> Imported:
    """The import of a folder with some settings; the test fails when it does not end well."""
    done = invoke("data", "import", str(path), "--out", str(out), "--json", *_options(settings))
    assert done.exit_code == 0, done.output + str(done.exception)
    report = json.loads(done.stdout)
    masks = {
        record.image_id: [decode(rle, record.height, record.width) for rle in record.instances.rle]
        for split in SPLITS
        for record in read_folder(out / split)
        if record.instances is not None
    }
    counts = (sum(report[name].values()) for name in ("cells", "ignored"))
    return Imported(report["images"], *counts, report, masks)


def refused(path: Path, out: Path, *settings: str) -> str:
    """The message with which the import of a folder ends."""
    done = invoke("data", "import", str(path), "--out", str(out), *_options(settings))
    assert done.exit_code not in (0, None) and done.exception is not None, done.output
    assert type(done.exception).__name__ in ("DataError", "ConfigError", "UsageError"), repr(done.exception)
    return str(done.exception)


def inspected(path: Path, *settings: str) -> dict[str, Any]:
    """What `cellsemi data inspect` finds, as JSON."""
    done = invoke("data", "inspect", str(path), "--no-picture", "--json", *_options(settings))
    assert done.exit_code == 0, done.output + str(done.exception)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def shown(path: Path, *settings: str) -> str:
    """What `cellsemi data inspect` prints."""
    done = invoke("data", "inspect", str(path), "--no-picture", *_options(settings))
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.stdout


def same_cells(found: list[Mask], expected: list[Mask]) -> bool:
    """Whether two lists hold the same masks, in any order."""
    return sorted(mask.tobytes() for mask in found) == sorted(mask.tobytes() for mask in expected)


def _options(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def roi_set(path: Path, cells: list[Mask], points: int = 0) -> None:
    """An ImageJ ROI set as roifile writes it: a polygon for each mask, and points."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number, cell in enumerate(cells, start=1):
            roi = roifile.ImagejRoi.frompoints(np.array(outline(cell)), name=f"cell {number}")
            archive.writestr(f"{number}.roi", roi.tobytes())
        for number in range(points):
            mark = roifile.ImagejRoi.frompoints(np.array([[5, 5]]))
            mark.roitype = roifile.ROI_TYPE.POINT
            archive.writestr(f"point {number}.roi", mark.tobytes())


def coco_file(path: Path, pictures: list[Drawn], brushed: slice = slice(0), extension: str = ".png") -> None:
    """A COCO file as CVAT writes it: polygons, and the cells `brushed` as run lengths with iscrowd 1."""
    listed: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    for number, picture in enumerate(pictures, start=1):
        file_name = f"{picture.name}{extension}"
        listed["images"].append({"id": number, "file_name": file_name, "height": HEIGHT, "width": WIDTH})
        brush = picture.cells[brushed]
        for cell in picture.cells:
            counts = coco.encode(np.asfortranarray(cell.astype(np.uint8)))["counts"].decode()
            crowd = any(cell is other for other in brush)
            ring = [value for point in outline(cell) for value in point]
            shape: Any = {"size": [HEIGHT, WIDTH], "counts": counts} if crowd else [ring]
            number_of = len(listed["annotations"]) + 1
            annotation = {"id": number_of, "image_id": number, "category_id": 1, "iscrowd": int(crowd)}
            listed["annotations"].append({**annotation, "segmentation": shape})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(listed), encoding="utf-8")


def geojson(path: Path, shapes: list[tuple[list[list[float]], str]], points: int = 0) -> None:
    """A FeatureCollection as QuPath writes it: rings, their classes ("" for none), and points."""
    features = []
    for ring, name in shapes:
        properties: dict[str, Any] = {"objectType": "annotation"}
        properties |= {"classification": {"name": name, "color": [1, 2, 3]}} if name else {}
        geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    mark = {"type": "Point", "coordinates": [5.0, 5.0]}
    features += [{"type": "Feature", "geometry": mark, "properties": {"objectType": "annotation"}}] * points
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
