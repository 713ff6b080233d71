"""Folders as people and tools lay them out: splits in folders, equal names, labelled images in the pool."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.cases import Drawn, case, coco_file, drawn, imported, inspected, refused, same_cells, save, shown

from cellsemi.rounds.store.shards import read_folder


@pytest.fixture
def pictures() -> list[Drawn]:
    return [drawn(number) for number in range(1, 5)]


def ids(out: Path, split: str) -> list[str]:
    return [record.image_id for record in read_folder(out / split)]


# --- 03: a folder for each split, its COCO file in it -------------------------------------------------------


def test_roboflow_folders_are_the_splits(tmp_path: Path) -> None:
    found = imported(case(3), tmp_path / "x")
    assert found.images == {"labelled": 2, "unlabelled": 0, "val": 1, "test": 1} and found.cells == 12


@pytest.mark.parametrize("words", [("train", "valid", "test"), ("Training", "val", "testing")])
@pytest.mark.parametrize("same_names", [True, False])
def test_generated_folders_of_splits(tmp_path: Path, words: tuple[str, ...], same_names: bool) -> None:
    for number, word in enumerate(words, start=1):
        picture = drawn(number, "frame_000000" if same_names else "")
        save(tmp_path / "data" / word / f"{picture.name}.png", picture.pixels)
        coco_file(tmp_path / "data" / word / "_annotations.coco.json", [picture])
    found = imported(tmp_path / "data", tmp_path / "x")
    assert found.images == {"labelled": 1, "unlabelled": 0, "val": 1, "test": 1}
    for number, (word, split) in enumerate(zip(words, ("labelled", "val", "test"), strict=True), start=1):
        (image_id,) = ids(tmp_path / "x", split)
        assert image_id == (f"{word}__frame_000000" if same_names else f"im{number}")
        assert same_cells(found.masks[image_id], drawn(number).cells)


# --- 14: equal names in the folders of the splits -----------------------------------------------------------


def test_equal_names_in_folders_of_splits_are_told_apart_by_the_folder(tmp_path: Path) -> None:
    found = imported(case(14), tmp_path / "x")
    assert found.images == {"labelled": 2, "unlabelled": 0, "val": 1, "test": 1} and found.cells == 12
    assert ids(tmp_path / "x", "labelled") == ["frame_000001", "train__frame_000000"]
    assert ids(tmp_path / "x", "val") == ["val__frame_000000"]


def test_an_annotated_image_keeps_its_id_beside_an_unlabelled_one_of_its_name(
    tmp_path: Path, pictures: list[Drawn]
) -> None:
    for picture in pictures:
        save(tmp_path / "data" / "images" / f"{picture.name}.png", picture.pixels)
        save(tmp_path / "data" / "masks" / f"{picture.name}.png", picture.labels)
        save(tmp_path / "data" / "unlabelled" / f"{picture.name}.png", drawn(int(picture.name[2:]) + 9).pixels)
    found = imported(tmp_path / "data", tmp_path / "x")
    assert set(found.masks) == {picture.name for picture in pictures}
    assert ids(tmp_path / "x", "unlabelled") == [f"unlabelled__im{number}" for number in range(1, 5)]


def test_one_image_in_two_splits_is_still_refused(tmp_path: Path) -> None:
    picture = drawn(1)
    save(tmp_path / "data" / "images" / "im1.png", picture.pixels)
    for word in ("train", "val", "test"):
        coco_file(tmp_path / "data" / f"{word}.json", [picture])
    assert "id 'im1' stands in train.json" in refused(tmp_path / "data", tmp_path / "x")


# --- 12: the labelled images again among the unlabelled ones ------------------------------------------------


def test_labelled_images_are_left_out_of_the_unlabelled_ones(tmp_path: Path) -> None:
    found = imported(case(12), tmp_path / "x")
    assert found.images["unlabelled"] == 2 and found.cells == 12 and found.report["copies"] == 4
    assert inspected(case(12))["listed"]["unlabelled"] == 2
    assert "4 unlabelled images have the pixels of an annotated image" in shown(case(12))


@pytest.mark.parametrize("name", ["{}.png", "again-{}.tif"])
def test_generated_copies_among_the_unlabelled_images(tmp_path: Path, pictures: list[Drawn], name: str) -> None:
    for picture in pictures:
        save(tmp_path / "data" / "images" / f"{picture.name}.png", picture.pixels)
        save(tmp_path / "data" / "masks" / f"{picture.name}.png", picture.labels)
    for picture in [*pictures, drawn(5), drawn(6)]:
        save(tmp_path / "data" / "unlabelled" / name.format(picture.name), picture.pixels)
    found = imported(tmp_path / "data", tmp_path / "x")
    assert found.images["unlabelled"] == 2 and found.report["copies"] == 4


def test_a_test_image_that_the_data_names_is_refused_among_the_unlabelled_ones(tmp_path: Path) -> None:
    for number, word in enumerate(("train", "val", "test"), start=1):
        save(tmp_path / "data" / word / f"im{number}.png", drawn(number).pixels)
        save(tmp_path / "data" / word / f"im{number}_masks.png", drawn(number).labels)
    save(tmp_path / "data" / "unlabelled" / "copy.png", drawn(3).pixels)
    assert "the same pixels" in refused(tmp_path / "data", tmp_path / "x")


# --- 13: annotated and plain images in one folder -----------------------------------------------------------

SAME = "data.images={labelled: ., unlabelled: .}"


@pytest.mark.parametrize("settings", [(SAME,), (SAME, "data.source=paired", "data.masks=.")])
def test_images_without_annotation_are_the_unlabelled_ones_when_asked(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    data = case(13)
    found = imported(data, tmp_path / "x", *settings)
    assert found.images == {"labelled": 2, "unlabelled": 3, "val": 1, "test": 1} and found.cells == 12
    assert inspected(data, *settings)["listed"] == found.images
    assert f"3 images have no annotation file: --set '{SAME}' takes them" in shown(data)
    assert "data.images.unlabelled" in refused(data, tmp_path / "y")


@pytest.mark.parametrize("folder", [".", "plates/a"])
def test_generated_folders_that_are_annotated_in_part(tmp_path: Path, pictures: list[Drawn], folder: str) -> None:
    root = tmp_path / "data"
    for picture in [*pictures, drawn(5), drawn(6)]:
        save(root / folder / f"{picture.name}.png", picture.pixels)
    for picture in pictures:
        save(root / folder / f"{picture.name}_masks.png", picture.labels)
    stated = f"data.images={{labelled: {folder}, unlabelled: .}}"
    found = imported(root, tmp_path / "x", stated)
    assert ids(tmp_path / "x", "unlabelled") == ["im5", "im6"] and found.cells == 12


def test_a_coco_file_that_lists_some_images_of_a_folder(tmp_path: Path, pictures: list[Drawn]) -> None:
    for picture in [*pictures, drawn(5)]:
        save(tmp_path / "data" / "images" / f"{picture.name}.png", picture.pixels)
    coco_file(tmp_path / "data" / "a.json", pictures)
    imported(tmp_path / "data", tmp_path / "x", "data.images={labelled: images, unlabelled: images}")
    assert ids(tmp_path / "x", "unlabelled") == ["im5"]


def test_a_folder_whose_images_are_all_annotated_has_no_unlabelled_ones(tmp_path: Path, pictures: list[Drawn]) -> None:
    for picture in pictures:
        save(tmp_path / "data" / f"{picture.name}.png", picture.pixels)
        save(tmp_path / "data" / f"{picture.name}_masks.png", picture.labels)
    assert "all images in it are annotated" in refused(tmp_path / "data", tmp_path / "x", SAME)


# --- 15: images/ and masks/ in train/ and test/ -------------------------------------------------------------


def test_stardist_folders_are_pairs_in_splits(tmp_path: Path) -> None:
    found = imported(case(15), tmp_path / "x")
    assert found.cells == 12 and found.images["test"] == 1 and sum(found.images.values()) == 4
    assert inspected(case(15))["source"] == "paired"


@pytest.mark.parametrize("train", [1, 3])
def test_generated_stardist_folders(tmp_path: Path, train: int) -> None:
    splits = {number: "train" if number <= train else "test" for number in range(1, train + 2)}
    for number, word in splits.items():
        save(tmp_path / "data" / word / "images" / f"{number}.tif", drawn(number).pixels)
        save(tmp_path / "data" / word / "masks" / f"{number}.tif", drawn(number).labels)
    found = inspected(tmp_path / "data")
    assert (found["source"], found["cells"]) == ("paired", 3 * (train + 1))
    assert found["data"]["images"] == {"labelled": "train/images", "test": "test/images"}
