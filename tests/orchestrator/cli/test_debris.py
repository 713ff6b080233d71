"""Stray clicks and specks among the cells are left out and counted; they stop no import and hide no cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.cases import (
    HEIGHT,
    WIDTH,
    Drawn,
    case,
    coco_file,
    drawn,
    geojson,
    imported,
    inspected,
    outline,
    refused,
    roi_set,
    same_cells,
    save,
)

from cellsemi.rounds.formats.base import NO_AREA, NO_PIXEL

# What a file of COCO may hold beside its cells, and under which reason it is counted; None: it is refused.
MARKS: dict[str, tuple[Any, str | None]] = {
    "one point": ([[28.0, 20.0]], NO_AREA),
    "the same point twice": ([[28.0, 20.0, 28.0, 20.0]], NO_AREA),
    "a line": ([[3, 3, 9, 3]], NO_AREA),
    "a triangle without height": ([[3, 3, 9, 3, 6, 3]], NO_PIXEL),
    "a speck": ([[5.1, 5.1, 5.4, 5.1, 5.4, 5.4]], NO_PIXEL),
    "run lengths of nothing": ({"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}, NO_PIXEL),
    "a triangle beside the image": ([[60, 3, 70, 3, 70, 9]], None),
    "no ring": ([], None),
    "three numbers": ([[1, 2, 3]], None),
}


@pytest.fixture
def pictures() -> list[Drawn]:
    return [drawn(number) for number in range(1, 5)]


@pytest.mark.parametrize(("number", "left_out"), [(4, {NO_AREA: 4}), (17, {NO_AREA: 2, NO_PIXEL: 2})])
def test_points_and_specks_of_the_cases(tmp_path: Path, number: int, left_out: dict[str, int]) -> None:
    found = imported(case(number), tmp_path / "x")
    assert found.cells == 12 and found.report["left_out"] == left_out and not found.report["quarantined"]
    assert inspected(case(number))["left_out"] == left_out


def add(path: Path, **annotation: Any) -> None:
    """One more annotation for each image of a COCO file."""
    listed = json.loads(path.read_text(encoding="utf-8"))
    for image in listed["images"]:
        listed["annotations"].append({"id": 900, "image_id": image["id"], "category_id": 1, **annotation})
    path.write_text(json.dumps(listed), encoding="utf-8")


@pytest.mark.parametrize("name", MARKS)
def test_marks_in_a_generated_coco_file(tmp_path: Path, pictures: list[Drawn], name: str) -> None:
    for picture in pictures:
        save(tmp_path / "data" / "images" / f"{picture.name}.png", picture.pixels)
    coco_file(tmp_path / "data" / "a.json", pictures)
    segmentation, reason = MARKS[name]
    add(tmp_path / "data" / "a.json", segmentation=segmentation)
    if reason is None:
        assert "4 of 4 images cannot be used" in refused(tmp_path / "data", tmp_path / "x")
        return
    found = imported(tmp_path / "data", tmp_path / "x")
    assert found.report["left_out"] == {reason: 4}
    assert all(same_cells(found.masks[picture.name], picture.cells) for picture in pictures)


def test_a_stray_ring_beside_the_ring_of_a_cell_leaves_the_cell(tmp_path: Path, pictures: list[Drawn]) -> None:
    for picture in pictures:
        save(tmp_path / "data" / "images" / f"{picture.name}.png", picture.pixels)
    path = tmp_path / "data" / "a.json"
    coco_file(path, pictures)
    listed = json.loads(path.read_text(encoding="utf-8"))
    for annotation in listed["annotations"]:
        annotation["segmentation"].append([1, 1])
    path.write_text(json.dumps(listed), encoding="utf-8")
    found = imported(tmp_path / "data", tmp_path / "x")
    assert all(same_cells(found.masks[picture.name], picture.cells) for picture in pictures)
    assert found.report["left_out"] == {}


def test_a_box_without_a_mask_is_a_cell_and_stops_its_image(tmp_path: Path, pictures: list[Drawn]) -> None:
    for picture in pictures:
        save(tmp_path / "data" / "images" / f"{picture.name}.png", picture.pixels)
    coco_file(tmp_path / "data" / "a.json", pictures)
    add(tmp_path / "data" / "a.json", segmentation=[[3, 3, 9, 9]], bbox=[3, 3, 6, 6])
    assert "segmentation is empty; a box is no mask" in refused(tmp_path / "data", tmp_path / "x")


def test_cells_that_are_marked_by_points_are_no_background(tmp_path: Path, pictures: list[Drawn]) -> None:
    for picture in pictures:
        save(tmp_path / "data" / f"{picture.name}.png", picture.pixels)
        geojson(tmp_path / "data" / f"{picture.name}.geojson", [(outline(picture.cells[0]), "")], points=2)
    message = refused(tmp_path / "data", tmp_path / "x")
    assert "most of its annotations cannot be cells: 2 annotations without an area" in message


def test_points_in_a_generated_roi_set_and_in_geojson(tmp_path: Path, pictures: list[Drawn]) -> None:
    for number, picture in enumerate(pictures):
        save(tmp_path / "data" / f"{picture.name}.png", picture.pixels)
        if number % 2:
            roi_set(tmp_path / "data" / f"{picture.name}.zip", picture.cells, points=1)
        else:
            shapes = [(outline(cell), "") for cell in picture.cells]
            geojson(tmp_path / "data" / f"{picture.name}.geojson", shapes, points=1)
    found = imported(tmp_path / "data", tmp_path / "x")
    assert found.report["left_out"] == {NO_AREA: 4}
    assert all(same_cells(found.masks[picture.name], picture.cells) for picture in pictures)
