"""Files as exporters write them that were once read wrongly without a word: each is read right, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.cases import HEIGHT, WIDTH, Drawn, case, drawn, imported, inspected, outline, refused, same_cells, save
from pycocotools import mask as coco


def coco_file(path: Path, pictures: list[Drawn], brushed: slice = slice(0)) -> None:
    """A COCO file as CVAT writes it: polygons, and the cells `brushed` as run lengths with iscrowd 1."""
    listed: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    for number, picture in enumerate(pictures, start=1):
        file_name = f"{picture.name}.png"
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


@pytest.fixture
def pictures() -> list[Drawn]:
    return [drawn(number) for number in range(1, 5)]


# --- 01: masks drawn with a brush are crowds ------------------------------------------------------------


def test_crowds_of_a_brush_are_cells_when_asked_and_named_when_not(tmp_path: Path) -> None:
    data = case(1)
    found = imported(data, tmp_path / "cells", "data.crowds=cells")
    assert (found.cells, found.ignored) == (12, 0)
    found = imported(data, tmp_path / "ignored")
    assert (found.cells, found.ignored, found.report["crowds"], found.report["crowded"]) == (6, 6, 6, 4)
    assert any("iscrowd: 1" in hint and "data.crowds=cells" in hint for hint in inspected(data)["hints"])


def test_brush_masks_of_generated_cells(tmp_path: Path, pictures: list[Drawn]) -> None:
    for picture in pictures:
        save(tmp_path / "data" / "images" / f"{picture.name}.png", picture.pixels)
    coco_file(tmp_path / "data" / "annotations" / "instances_default.json", pictures, slice(1, None))
    found = imported(tmp_path / "data", tmp_path / "cells", "data.crowds=cells")
    assert all(same_cells(found.masks[picture.name], picture.cells) for picture in pictures)
    assert imported(tmp_path / "data", tmp_path / "ignored").cells == 4


def test_few_crowds_are_regions_and_not_worth_a_word(tmp_path: Path, pictures: list[Drawn]) -> None:
    for picture in pictures:
        save(tmp_path / "data" / "images" / f"{picture.name}.png", picture.pixels)
    coco_file(tmp_path / "data" / "a.json", pictures)
    assert not any("iscrowd" in hint for hint in inspected(tmp_path / "data")["hints"])


# --- 05: a mask of foreground is no label map -------------------------------------------------------------


def test_a_mask_of_foreground_is_refused_and_its_pieces_are_cells_when_asked(tmp_path: Path) -> None:
    data = case(5)
    message = refused(data, tmp_path / "x")
    assert "im1_masks.png: the value 1 stands in 3 pieces: a mask of foreground" in message
    assert "data.clean.parts=split" in message and "4 of 4 images cannot be used" in message
    assert imported(data, tmp_path / "split", "data.clean.parts=split").cells == 12
    assert len(inspected(data)["quarantined"]) == 4


FOREGROUNDS: dict[str, Any] = {
    "0 and 1": lambda labels: (labels > 0).astype(np.uint8),
    "0 and 128": lambda labels: (labels > 0) * np.uint8(128),
    "0 and 255": lambda labels: (labels > 0) * np.uint8(255),
    "one bit": lambda labels: labels > 0,
    "0 and 7 in 16 bits": lambda labels: (labels > 0) * np.uint16(7),
}


@pytest.mark.parametrize("kind", FOREGROUNDS)
def test_masks_of_generated_foreground(tmp_path: Path, pictures: list[Drawn], kind: str) -> None:
    for picture in pictures:
        save(tmp_path / "data" / f"{picture.name}.png", picture.pixels)
        save(tmp_path / "data" / f"{picture.name}_masks.png", FOREGROUNDS[kind](picture.labels))
    assert "in 3 pieces: a mask of foreground" in refused(tmp_path / "data", tmp_path / "x")
    found = imported(tmp_path / "data", tmp_path / "split", "data.clean.parts=split")
    assert all(same_cells(found.masks[picture.name], picture.cells) for picture in pictures)


def test_a_mask_of_classes_is_refused_however_the_pieces_are_to_be_taken(tmp_path: Path) -> None:
    for number in range(1, 5):
        one, other = drawn(number), drawn(number + 4)
        classes = np.where(one.labels > 0, 1, np.where(other.labels > 0, 2, 0)).astype(np.uint8)
        save(tmp_path / "data" / f"im{number}.png", one.pixels)
        save(tmp_path / "data" / f"im{number}_masks.png", classes)
    for settings in ((), ("data.clean.parts=split",)):
        assert "the value 1 stands in 3 pieces" in refused(tmp_path / "data", tmp_path / "x", *settings)
