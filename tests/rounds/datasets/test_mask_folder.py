"""Masks of other tools are found for known images, by name or by pixels, and never taken for empty."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.cells import masks
from cellsemi.rounds.datasets.mask_folder import open_masks
from cellsemi.rounds.formats.coco.writer import write_coco
from cellsemi.rounds.formats.imagej.roi_set import write_roi_sets
from cellsemi.rounds.formats.qupath.geojson import write_geojson
from cellsemi.rounds.inspect.detect import detect
from cellsemi.rounds.store.image_codec import pixel_sha256, to_png
from cellsemi.rounds.store.schemas import ImageRecord

LABELS = np.zeros((20, 30), np.uint16)
LABELS[2:8, 3:9], LABELS[10:18, 12:25] = 1, 2
IDS = ("plate[1]", "plate2")


def record(image_id: str, seed: int = 0) -> ImageRecord:
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 30), dtype=np.uint8)
    cells = masks.from_label_map(LABELS, state="human")
    return ImageRecord(
        image_id, 20, 30, "test", to_png(pixels), f"{image_id}.png", sha256=pixel_sha256(pixels), instances=cells
    )


def recognise(path: Path) -> DataConfig:
    found = detect(path)
    return DataConfig.model_validate({"source": found.source, **found.settings})


def labels_of(folder: Path, image_id: str = IDS[0], ids: tuple[str, ...] = IDS) -> NDArray[np.int32] | None:
    found = open_masks(folder, ids, recognise)(record(image_id))
    return None if found is None else masks.to_label_map(found.cells)


@pytest.mark.parametrize("ending", ["", "_masks", "_cp_masks", "_mask", "_label", "_labels"])
def test_label_maps_by_name(tmp_path: Path, ending: str) -> None:
    tifffile.imwrite(tmp_path / f"{IDS[0]}{ending}.tif", LABELS)
    found = labels_of(tmp_path)
    assert found is not None and np.array_equal(found, LABELS)
    assert labels_of(tmp_path, IDS[1]) is None, "missing, not empty"


def test_an_image_beside_its_masks_is_no_mask(tmp_path: Path) -> None:
    """The folder that `cellsemi predict --format label-maps` writes."""
    tifffile.imwrite(tmp_path / f"{IDS[0]}.tif", LABELS * 100 + 5)
    tifffile.imwrite(tmp_path / f"{IDS[0]}_masks.tif", LABELS)
    found = labels_of(tmp_path)
    assert found is not None and np.array_equal(found, LABELS)


def test_annotation_files(tmp_path: Path) -> None:
    for number, write in enumerate((write_roi_sets, write_geojson)):
        folder = tmp_path / str(number)
        folder.mkdir()
        write([record(IDS[0])], folder, ("astro", "cort"))
        found = open_masks(folder, IDS, recognise)(record(IDS[0]))
        assert found is not None and len(found.cells) == 2 and len(found.classes) >= 1
        assert np.array_equal(masks.to_label_map(found.cells) > 0, LABELS > 0)


def test_a_coco_file_beside_its_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, image_id in enumerate(IDS):
        (tmp_path / "images" / f"{image_id}.png").write_bytes(record(image_id, number).image or b"")
    write_coco([record(image_id, number) for number, image_id in enumerate(IDS)], tmp_path / "found.json", ("astro",))
    found = open_masks(tmp_path / "found.json", IDS, recognise)(record(IDS[1], 1))
    assert found is not None and len(found.cells) == 2 and found.classes == ("astro",)
    other = open_masks(tmp_path / "found.json", ("renamed",), recognise)
    by_pixels = other(record("renamed", 1))
    assert by_pixels is not None and len(by_pixels.cells) == 2
    assert other(record("renamed", 7)) is None


def test_what_does_not_fit_its_image_is_an_error(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / f"{IDS[0]}_masks.tif", LABELS[:10])
    find = open_masks(tmp_path, IDS, recognise)
    with pytest.raises(ImageError, match="30x10"):
        find(record(IDS[0]))


def test_two_files_for_one_image_are_an_error(tmp_path: Path) -> None:
    for name in (f"{IDS[0]}_masks.tif", f"{IDS[0]}_cp_masks.png"):
        tifffile.imwrite(tmp_path / name, LABELS)
    with pytest.raises(ImageError, match="several"):
        open_masks(tmp_path, IDS, recognise)(record(IDS[0]))


def test_a_folder_of_other_names_is_an_error(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "something_else_masks.tif", LABELS)
    (tmp_path / "notes.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(DataError, match="no masks of these images"):
        open_masks(tmp_path, IDS, recognise)
