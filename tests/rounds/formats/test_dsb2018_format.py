"""The folders of the Data Science Bowl 2018: a mask file per cell, and what can be wrong with one of them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.configs.schema import Config
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.ingest_report import IngestReport
from cellsemi.rounds.datasets.open import open_data
from cellsemi.rounds.datasets.read_shards import read_record
from cellsemi.rounds.formats.base import Item, Reader, parts_of
from cellsemi.rounds.formats.dsb2018 import Dsb2018
from cellsemi.rounds.store.image_codec import decode_image

SIZE = (24, 32)


def square(y: int, x: int, side: int, value: int = 255) -> NDArray[np.uint8]:
    mask = np.zeros(SIZE, np.uint8)
    mask[y : y + side, x : x + side] = value
    return mask


CELLS = {"c1": square(2, 3, 5), "c2": square(5, 6, 6), "c3": square(18, 26, 6)}  # c1 and c2 overlap


def save(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def rgba(seed: int) -> NDArray[np.uint8]:
    grey = np.random.default_rng(seed).integers(0, 200, SIZE, np.uint8)
    return np.dstack([grey, grey, grey, np.full(SIZE, 255, np.uint8)])


def make(root: Path, *ids: str) -> Path:
    for seed, image_id in enumerate(ids or ("a",)):
        folder = root / "stage1_train" / image_id
        save(folder / "images" / f"{image_id}.png", rgba(seed))
        for name, mask in CELLS.items():
            save(folder / "masks" / f"{name}.png", mask)
    return root


def config(root: Path, **options: Any) -> DataConfig:
    return DataConfig(source="dsb2018", root=str(root), **{"images": "stage1_train", **options})


def opened(root: Path, **options: Any) -> Reader:
    (part,) = parts_of(config(root, **options))
    return Dsb2018(part)


def only(root: Path) -> Item:
    (item,) = opened(root).items()
    return item


def test_every_mask_file_is_a_cell_and_they_may_overlap(tmp_path: Path) -> None:
    make(tmp_path, "a", "b", "c")
    found = Config(data=config(tmp_path, classes=("nucleus",)))
    items = open_data(found).items
    records = [read_record(item, ClassNames(found.data), IngestReport()) for item in items]
    assert [record.image_id for record in records] == ["a", "b", "c"]
    for seed, record in enumerate(records):
        assert record.instances is not None and record.image is not None
        decoded = [decode(rle, *SIZE) for rle in record.instances.rle]
        assert all(np.array_equal(mask, cell > 0) for mask, cell in zip(decoded, CELLS.values(), strict=True))
        assert set(record.instances.state) == {"human"}
        assert np.array_equal(decode_image(record.image, "a"), rgba(seed)[..., 0])  # alpha and equal colours left out
        assert record.source == f"stage1_train/{record.image_id}/images/{record.image_id}.png"


def test_class_and_group_come_from_the_path(tmp_path: Path) -> None:
    make(tmp_path, "fluo_w1_0", "he_w2_1")
    reader = opened(tmp_path, class_pattern="stage1_train/(fluo|he)_", group_pattern="_(w[0-9])_")
    assert [(item.image_id, item.cell_type, item.group) for item in reader.items()] == [
        ("fluo_w1_0", "fluo", "w1"),
        ("he_w2_1", "he", "w2"),
    ]
    assert [item.place for item in reader.items()] == ["stage1_train/fluo_w1_0", "stage1_train/he_w2_1"]
    assert reader.classes == ()


@pytest.mark.parametrize("value", [1, 128, 255])
def test_any_one_value_that_is_not_zero_is_the_cell(tmp_path: Path, value: int) -> None:
    save(make(tmp_path) / "stage1_train" / "a" / "masks" / "c1.png", square(2, 3, 5, value))
    cells = only(tmp_path).load().record.instances
    assert cells is not None and cells.area.tolist() == [25, 36, 36]


def test_masks_of_one_bit_and_whole_images_are_read(tmp_path: Path) -> None:
    folder = make(tmp_path) / "stage1_train" / "a" / "masks"
    save(folder / "c1.png", square(2, 3, 5) > 0)
    save(folder / "c2.png", np.full(SIZE, 255, np.uint8))
    cells = only(tmp_path).load().record.instances
    assert cells is not None and cells.area.tolist() == [25, 24 * 32, 36]


def test_an_empty_folder_of_masks_says_that_there_is_no_cell(tmp_path: Path) -> None:
    for path in (make(tmp_path) / "stage1_train" / "a" / "masks").iterdir():
        path.unlink()
    cells = only(tmp_path).load().record.instances
    assert cells is not None and len(cells) == 0


def test_what_file_browsers_leave_is_no_mask_and_files_beside_the_folders_are_counted(tmp_path: Path) -> None:
    folder = make(tmp_path) / "stage1_train"
    for name in (".DS_Store", "._c1.png", "Thumbs.db"):
        (folder / "a" / "masks" / name).write_bytes(b"junk")
    (folder / ".DS_Store").write_bytes(b"junk")
    (folder / "__MACOSX").mkdir()
    assert opened(tmp_path).notes == ()
    cells = only(tmp_path).load().record.instances
    assert cells is not None and len(cells) == 3
    (folder / "stray.png").write_bytes(b"x")
    assert opened(tmp_path).notes == ("stage1_train: 1 files beside the folders of images are not used",)


@pytest.mark.parametrize(
    ("name", "mask", "words"),
    [
        ("c1.png", np.zeros(SIZE, np.uint8), "the mask is empty"),
        ("c1.png", square(2, 3, 5).T.copy(), "the mask is 24x32, the image 32x24"),
        ("c1.png", square(2, 3, 5) | square(9, 9, 2, 7), "the mask holds 255 and 7, expected 0 and one other value"),
        ("c1.png", square(2, 3, 5, 155) + np.uint8(100), "holds 255 and 100"),
        ("c1.png", np.dstack([square(2, 3, 5)] * 3), "has colour"),
        ("c1.jpg", square(2, 3, 5), "a JPEG cannot hold"),
        ("c1.gif", square(2, 3, 5), "not an image, but it stands among the masks"),
    ],
)
def test_a_wrong_mask_names_its_file(tmp_path: Path, name: str, mask: NDArray[Any], words: str) -> None:
    save(make(tmp_path) / "stage1_train" / "a" / "masks" / name, mask)
    with pytest.raises(ImageError, match=words) as caught:
        only(tmp_path).load()
    assert caught.value.path == f"stage1_train/a/masks/{name}" and caught.value.remedy


def test_a_damaged_or_cut_mask_is_an_image_error(tmp_path: Path) -> None:
    path = make(tmp_path) / "stage1_train" / "a" / "masks" / "c2.png"
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[:20], whole[:-30], bytes(50)):
        path.write_bytes(content)
        with pytest.raises(ImageError, match=r"masks/c2\.png"):
            only(tmp_path).load()


def test_one_image_and_a_folder_of_masks_are_needed(tmp_path: Path) -> None:
    folder = make(tmp_path) / "stage1_train" / "a"
    save(folder / "images" / "b.png", rgba(1))
    with pytest.raises(ImageError, match="stage1_train/a/images: 2 images, expected one"):
        only(tmp_path).load()
    for path in (folder / "images").iterdir():
        path.unlink()
    with pytest.raises(ImageError, match="0 images, expected one"):
        only(tmp_path).load()
    (folder / "images").rmdir()
    with pytest.raises(ImageError, match="stage1_train/a/images: there is no such folder"):
        only(tmp_path).load()


def test_without_a_folder_of_masks_the_image_is_not_annotated(tmp_path: Path) -> None:
    folder = make(tmp_path) / "stage1_train" / "a" / "masks"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(ImageError, match=r"masks: there is no such folder .*data\.images\.unlabelled"):
        only(tmp_path).load()


def test_a_missing_or_empty_folder_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"stage1_train: no such folder; data.images names it"):
        opened(tmp_path)
    (tmp_path / "stage1_train").mkdir()
    with pytest.raises(DataError, match="there are no folders in it"):
        opened(tmp_path)
    (tmp_path / "stage1_train" / "a..b").mkdir()
    with pytest.raises(DataError, match=r"stage1_train/a..b: id 'a..b' holds '..'"):
        opened(tmp_path)


def test_masks_are_held_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "stage1_train" / "a"
    save(folder / "images" / "a.png", np.zeros((600, 600), np.uint8))
    corners = np.zeros((600, 600), np.uint8)
    corners[0, 0] = corners[-1, -1] = 255
    for i in range(30):
        save(folder / "masks" / f"{i}.png", corners)
    item = only(tmp_path)
    tracemalloc.start()
    try:
        cells = item.load().record.instances
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert cells is not None and len(cells) == 30 and peak < 30 * 600 * 600
