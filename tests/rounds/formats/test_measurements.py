"""The table of the cells: every number against one worked out by hand or with scikit-image's regionprops."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats import measurements
from cellsemi.rounds.store.schemas import ImageRecord

# Area, perimeter, centroid x and y, eccentricity as regionprops of scikit-image 0.26 has them.
REGIONPROPS = [
    ("..####.. .######. ######## ######## .######. ..####..", 36, 19.3137, 3.5, 2.5, 0.61),
    ("####... #...... #..#### ######.", 16, 15.2071, 2.4375, 1.8125, 0.8269),
    ("####### #.###.# ####### #.###.# #######", 31, 25.6569, 3.0, 2.0, 0.6839),
    ("#.... .#... ..#.. ...#. ....#", 5, 4.2426, 2.0, 2.0, 1.0),
    ("###### ##.### ###### ####.# .#####", 27, 17.4142, 2.5556, 1.9259, 0.5689),
]


def mask_of(rows: str) -> NDArray[np.bool_]:
    return np.array([[c == "#" for c in row] for row in rows.split()])


def record(cells: Instances | None, image_id: str = "a") -> ImageRecord:
    return ImageRecord(image_id=image_id, height=20, width=30, split="", instances=cells)


def cells_of(*crops: tuple[NDArray[np.bool_], int, int], **columns: Any) -> Instances:
    return masks.from_crops(20, 30, crops, **columns)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("rows", "area", "length", "x", "y", "elongation"), REGIONPROPS)
def test_shapes_measure_as_in_scikit_image(
    tmp_path: Path, rows: str, area: int, length: float, x: float, y: float, elongation: float
) -> None:
    crop = mask_of(rows)
    measurements.write_measurements([record(cells_of((crop, 7, 11)))], tmp_path / "m.csv", ("cell",))
    (row,) = rows_of(tmp_path / "m.csv")
    names = ("perimeter_px", "centroid_x", "centroid_y", "eccentricity")
    assert [float(row[name]) for name in names] == pytest.approx([length, 7 + x, 11 + y, elongation], abs=1e-4)
    box = [int(row[f"bbox_{name}"]) for name in ("x0", "y0", "x1", "y1")]
    assert box == [7, 11, 7 + crop.shape[1], 11 + crop.shape[0]] and int(row["area_px"]) == area


def test_a_row_says_which_cell_it_is_and_ignored_cells_are_in_the_table(tmp_path: Path) -> None:
    crops = [(np.ones((2, 3), bool), 4, 6), (np.ones((1, 1), bool), 0, 0)]
    cells = cells_of(*crops, class_id=[1, 0], score=[0.87654, 1], state=["accepted", "ignored"])
    rows = [record(cells), record(cells_of(), "empty"), record(None, "never"), record(cells.select([0]), 'é, "b"')]
    done = measurements.write_measurements(rows, tmp_path / "m.csv", ("a,b", "neuron"))
    lines = (tmp_path / "m.csv").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "image_id,cell,class,score,state,area_px,perimeter_px,centroid_x,centroid_y,eccentricity,"
        "bbox_x0,bbox_y0,bbox_x1,bbox_y1",
        "a,1,neuron,0.8765,accepted,6,6.0000,5.0000,6.5000,0.7906,4,6,7,8",
        'a,2,"a,b",1.0000,ignored,1,0.0000,0.0000,0.0000,0.0000,0,0,1,1',
        '"é, ""b""",1,neuron,0.8765,accepted,6,6.0000,5.0000,6.5000,0.7906,4,6,7,8',
    ]
    assert (done.images, done.cells, done.files) == (4, 3, ["m.csv"])
    assert done.losses == {"images that were never annotated, without rows": 1}


def test_the_file_is_whole_or_absent(tmp_path: Path) -> None:
    def cut_short() -> Any:
        yield record(cells_of((np.ones((2, 3), bool), 4, 6)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measurements.write_measurements(cut_short(), tmp_path / "m.csv", ("cell",))
    assert list(tmp_path.iterdir()) == []
