"""Files as exporters write them that were once read wrongly without a word: each is read right, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.cases import HEIGHT, WIDTH, Drawn, case, drawn, imported, inspected, outline, same_cells, save
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
