"""Files as exporters write them that were once read wrongly without a word: each is read right, or refused."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.cases import (
    HEIGHT,
    SPLITS,
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
    same_cells,
    save,
)
from PIL import Image

from cellsemi.rounds.cells import masks
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.shards import read_folder


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


# --- 06: an orientation other than that of the pixels -----------------------------------------------------


def inside_is_bright(data: Path, out: Path, *settings: str) -> bool:
    """Whether the masks of an import lie on the bright cells of its images."""
    imported(data, out, *settings)
    differences = []
    for split in ("labelled", "val", "test"):
        for record in read_folder(out / split):
            assert record.image is not None and record.instances is not None
            pixels = decode_image(record.image, record.source)
            covered = masks.union_map(record.instances)
            differences.append(float(pixels[covered].mean() - pixels[~covered].mean()))
    assert len(differences) == 4
    return min(differences) > 50


def test_an_image_that_is_shown_turned_is_refused_and_turned_when_asked(tmp_path: Path) -> None:
    data = case(6)
    message = refused(data, tmp_path / "x")
    assert "images/im1.jpg: has the orientation 3" in message and "show it upside down" in message
    assert inside_is_bright(data, tmp_path / "apply", "data.orientation=apply")
    assert not inside_is_bright(data, tmp_path / "ignore", "data.orientation=ignore")


def test_generated_images_that_are_shown_turned(tmp_path: Path, pictures: list[Drawn]) -> None:
    exif = Image.Exif()
    exif[274] = 3
    for picture in pictures:
        save(tmp_path / "data" / f"{picture.name}.png", picture.pixels[::-1, ::-1].copy(), exif=exif)
    coco_file(tmp_path / "data" / "result.json", pictures)
    assert "has the orientation 3" in refused(tmp_path / "data", tmp_path / "x")
    assert inside_is_bright(tmp_path / "data", tmp_path / "apply", "data.orientation=apply")


# --- 07: image files of other kinds -----------------------------------------------------------------------


def test_bmp_images_are_read(tmp_path: Path) -> None:
    found = imported(case(7), tmp_path / "x")
    assert found.images == {"labelled": 2, "unlabelled": 4, "val": 1, "test": 1} and found.cells == 12


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_a_bmp_of_each_mode_is_read_as_pillow_reads_it(mode: str) -> None:
    picture = Image.fromarray(drawn(1).pixels).convert(mode)
    buffer = BytesIO()
    picture.save(buffer, "BMP")
    expected = np.asarray(picture.convert("L"))
    assert np.array_equal(decode_image(buffer.getvalue(), "a.bmp"), expected)


def test_generated_bmp_images_with_label_maps_as_bmp(tmp_path: Path, pictures: list[Drawn]) -> None:
    for picture in pictures:
        save(tmp_path / "data" / f"{picture.name}.bmp", picture.pixels)
        save(tmp_path / "data" / f"{picture.name}_masks.bmp", picture.labels.astype(np.uint8))
    found = imported(tmp_path / "data", tmp_path / "x")
    assert all(same_cells(found.masks[picture.name], picture.cells) for picture in pictures)


# --- 11: a manifest that was passed over ------------------------------------------------------------------

AS_STATED = {"labelled": ["im1", "im2"], "val": ["im3"], "test": ["im4"]}


def ids_by_split(out: Path) -> dict[str, list[str]]:
    found = {split: [record.image_id for record in read_folder(out / split)] for split in SPLITS}
    return {split: ids for split, ids in found.items() if ids}


def test_a_manifest_with_semicolons_says_the_splits(tmp_path: Path) -> None:
    imported(case(11), tmp_path / "x")
    assert ids_by_split(tmp_path / "x") == AS_STATED


def manifest_set(root: Path, pictures: list[Drawn], manifest: str, name: str = "manifest.csv") -> Path:
    for picture in pictures:
        save(root / "images" / f"{picture.name}.png", picture.pixels)
        save(root / "masks" / f"{picture.name}.png", picture.labels)
    (root / name).write_text(manifest, encoding="utf-8")
    return root


@pytest.mark.parametrize("mark", [",", ";", "\t", ", ", "; "])
@pytest.mark.parametrize("head", ["id{}split", "ID{}Split", "\ufeffid{}split", '"id"{}"split"'])
def test_generated_manifests_as_spreadsheets_write_them(
    tmp_path: Path, pictures: list[Drawn], mark: str, head: str
) -> None:
    rows = [f"{image_id}{mark}{split}" for split, ids in AS_STATED.items() for image_id in ids]
    manifest_set(tmp_path / "data", pictures, "\r\n".join([head.format(mark), *rows]))
    imported(tmp_path / "data", tmp_path / "x")
    assert ids_by_split(tmp_path / "x") == AS_STATED


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("manifest.csv", "file|split\nim1|labelled\n"),
        ("manifest.csv", "image,part\nim1,a\n"),
        ("manifest.csv", ""),
        ("Manifest.CSV", "image,part\nim1,a\n"),
        ("splits.csv", "filename,set\nim1.png,train\nim2.png,test\n"),
    ],
)
def test_a_table_of_splits_that_cannot_be_read_is_not_passed_over(
    tmp_path: Path, pictures: list[Drawn], name: str, text: str
) -> None:
    data = manifest_set(tmp_path / "data", pictures, text, name)
    message = refused(data, tmp_path / "x")
    assert f"{name}: says which images" in message and "id and split" in message
    assert imported(data, tmp_path / "x", "data.source=paired", "data.mask_suffix=''").cells == 12


def test_a_table_of_something_else_is_no_manifest(tmp_path: Path, pictures: list[Drawn]) -> None:
    data = manifest_set(tmp_path / "data", pictures, "file;size\nim1;40\n", "sizes.csv")
    assert imported(data, tmp_path / "x").cells == 12


# --- 16: regions that hold cells --------------------------------------------------------------------------

DROPS = 'data.class_map={"Training": drop, "Validation": drop}'


def test_regions_of_qupath_are_refused_and_dropped_when_asked(tmp_path: Path) -> None:
    data = case(16)
    message = refused(data, tmp_path / "x")
    assert "regions that hold cells, not a cell (Training, Validation)" in message and DROPS in message
    assert len(inspected(data)["quarantined"]) == 4
    found = imported(data, tmp_path / "dropped", DROPS)
    assert (found.cells, found.ignored, found.report["classes"]) == (12, 0, ["unclassified"])
    assert found.report["left_out"] == {
        f"annotations of the class '{name}' (data.class_map: drop)": 4 for name in ("Training", "Validation")
    }


WHOLE = [[0.0, 0.0], [float(WIDTH), 0.0], [float(WIDTH), float(HEIGHT)], [0.0, float(HEIGHT)]]
TISSUE = [[1.0, 1.0], [30.0, 0.0], [float(WIDTH), 2.0], [float(WIDTH), float(HEIGHT)], [0.0, float(HEIGHT)]]


@pytest.mark.parametrize("region", [WHOLE, TISSUE])
@pytest.mark.parametrize("name", ["Training", ""])
def test_generated_regions(tmp_path: Path, pictures: list[Drawn], region: list[list[float]], name: str) -> None:
    for picture in pictures:
        save(tmp_path / "data" / f"{picture.name}.png", picture.pixels)
        shapes = [(outline(cell), "") for cell in picture.cells]
        geojson(tmp_path / "data" / f"{picture.name}.geojson", [(region, name), *shapes])
    message = refused(tmp_path / "data", tmp_path / "x")
    assert "im1.png: an annotation is a region that holds cells, not a cell" in message
    assert ("export the cells alone" in message) is (name == "")
    if name:
        found = imported(tmp_path / "data", tmp_path / "dropped", "data.class_map={Training: drop}")
        assert all(same_cells(found.masks[picture.name], picture.cells) for picture in pictures)
        kept = imported(tmp_path / "data", tmp_path / "kept", 'data.class_map={Training: cell, "*": cell}')
        assert kept.cells == 16


def test_the_class_of_a_whole_image_cannot_be_dropped(tmp_path: Path, pictures: list[Drawn]) -> None:
    rows = "\n".join(f"{picture.name},labelled,a" for picture in pictures)
    data = manifest_set(tmp_path / "data", pictures, f"id,split,kind\n{rows}\n")
    settings = ("data.class_column=kind", "data.class_map={a: drop}", "data.classes=[b]")
    assert "the class of the whole image, 'a', is mapped to `drop`" in refused(data, tmp_path / "x", *settings)
