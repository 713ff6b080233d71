"""A folder for each image with a label map for each class: ids repeat, classes overlap, files are missing."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.configs.schema import Config
from cellsemi.rounds.cells import masks
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.ingest_report import IngestReport
from cellsemi.rounds.datasets.open import open_data
from cellsemi.rounds.datasets.read_shards import read_record
from cellsemi.rounds.formats.base import parts_of
from cellsemi.rounds.formats.label_map import class_files
from cellsemi.rounds.store.schemas import ImageRecord

A = np.array([[0, 1, 1, 0], [0, 0, 3, 3], [2, 0, 3, 3]], np.uint16)
B = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]], np.uint16)
NONE = np.zeros((3, 4), np.uint16)
RGBA = np.dstack([np.arange(12, dtype=np.uint8).reshape(3, 4)] * 3 + [np.full((3, 4), 255, np.uint8)])


def build(root: Path, files: dict[str, NDArray[Any]]) -> Path:
    for name, pixels in files.items():
        buffer = BytesIO()
        if name.endswith(".png"):
            Image.fromarray(pixels).save(buffer, "PNG")
        else:
            tifffile.imwrite(buffer, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(buffer.getvalue())
    return root


def config(root: Path, **options: Any) -> Config:
    options = {"images": ".", "classes": ("cell",), "class_map": {"*": "cell"}} | options
    return Config(data=DataConfig(source="class-files", root=str(root), **options))


def open_reader(root: Path, **options: Any) -> class_files.ClassFiles:
    (part,) = parts_of(config(root, **options).data)
    return class_files.ClassFiles(part)


def read_all(root: Path, **options: Any) -> dict[str, ImageRecord]:
    """The records by id; those whose split is still to be drawn are labelled."""
    names = ClassNames(config(root, **options).data)
    items = [replace(item, split="labelled") for item in open_reader(root, **options).items()]
    return {item.image_id: read_record(item, names, IngestReport()) for item in items}


def test_ids_repeat_from_file_to_file_and_cells_of_two_classes_may_overlap(tmp_path: Path) -> None:
    build(tmp_path, {"n1/image.tif": RGBA, "n1/class1.tif": A, "n1/class2.tif": NONE, "n1/class10.tif": B})
    reader = open_reader(tmp_path)
    assert reader.classes == ("class1", "class2", "class10") and reader.notes == ()
    (item,) = reader.items()
    loaded = item.load()
    cells = loaded.record.instances
    assert cells is not None and loaded.classes == reader.classes
    assert cells.class_id.tolist() == [0, 0, 0, 2, 2] and cells.area.tolist() == [2, 1, 4, 2, 1]
    assert set(cells.state) == {"human"}
    for labels, class_id in ((A, 0), (B, 2)):
        assert np.array_equal(masks.to_label_map(cells.select(cells.class_id == class_id)), labels)
    assert (loaded.record.image_id, loaded.record.source) == ("n1", "n1/image.tif")


def test_classes_of_the_run_are_named_by_the_class_map(tmp_path: Path) -> None:
    build(tmp_path, {"n1/image.tif": RGBA, "n1/class1.tif": A, "n1/class2.tif": B})
    options = {"classes": ("b", "a"), "class_map": {"class1": "a", "class2": "b"}}
    cells = read_all(tmp_path, **options)["n1"].instances
    assert cells is not None and cells.class_id.tolist() == [1, 1, 1, 0, 0]
    build(tmp_path, {f"{name}/{file}.tif": A for name in ("n2", "n3") for file in ("image", "class1")})
    assert open_data(config(tmp_path, **options)).classes == ("class1", "class2")
    with pytest.raises(DataError, match="class 'class2', expected one of a"):
        open_data(config(tmp_path, classes=("a",), class_map={"class1": "a"}))


def test_a_missing_class_file_is_an_absent_class_and_is_said(tmp_path: Path) -> None:
    build(tmp_path, {"n1/image.tif": RGBA, "n1/class1.tif": A, "n2/image.tif": RGBA + 1, "n2/class2.tif": B})
    found = read_all(tmp_path, classes=("class1", "class2"), class_map={})
    assert {name: record.instances.class_id.tolist() for name, record in found.items() if record.instances} == {
        "n1": [0, 0, 0],
        "n2": [1, 1],
    }
    assert open_reader(tmp_path).notes == (
        "1 annotated folders have no class1 file: taken as no cell of that class",
        "1 annotated folders have no class2 file: taken as no cell of that class",
    )


def test_sub_folders_make_ids_and_any_one_other_name_is_the_image(tmp_path: Path) -> None:
    files = {"data/a/n 1/photo [x].png": RGBA, "data/a/n 1/CLASS1.TIF": A}
    files |= {"data/b/n 1/IMAGE.tif": RGBA + 1, "data/b/n 1/class1.png": B, "data/b/n 1/preview.png": RGBA}
    files |= {"data/readme.png": RGBA}
    build(tmp_path, files)
    found = read_all(tmp_path, images="data", group_pattern="data/([ab])/")
    assert {name: (record.source, record.group) for name, record in found.items()} == {
        "a__n 1": ("data/a/n 1/photo [x].png", "a"),
        "b__n 1": ("data/b/n 1/IMAGE.tif", "b"),
    }
    assert open_reader(tmp_path, images="data").notes == (
        "1 files neither image nor class file are not used, the first is data/b/n 1/preview.png",
        "1 files outside the image folders are not used, the first is data/readme.png",
    )


@pytest.mark.parametrize(
    ("files", "path", "words"),
    [
        ({"image.tif": RGBA}, "n", "not annotated"),
        ({"class1.tif": A}, "n", "0 images beside the class files, expected one"),
        ({"x.tif": RGBA, "y.tif": RGBA, "class1.tif": A}, "n", "2 images .*: n/x.tif, n/y.tif"),
        ({"image.tif": RGBA, "image.png": RGBA, "class1.tif": A}, "n", "2 images .*: n/image.png, n/image.tif"),
        ({"image.tif": RGBA, "class1.tif": A, "class1.png": A}, "n", "several files for one class: n/class1.png"),
        ({"image.tif": RGBA, "class1.tif": A, "class2.tif": A.T.copy()}, "n/class2.tif", "3x4, the image 4x3"),
        (
            {"image.tif": RGBA, "class1.tif": (A > 0) * np.uint8(255)},
            "n/class1.tif",
            "value 255 stands in 2 pieces",
        ),
        ({"image.tif": RGBA, "class1.tif": RGBA}, "n/class1.tif", "has colour"),
    ],
)
def test_what_is_wrong_with_one_folder_is_an_image_error(
    tmp_path: Path, files: dict[str, NDArray[Any]], path: str, words: str
) -> None:
    build(tmp_path, {f"n/{name}": pixels for name, pixels in files.items()})
    build(tmp_path, {"good/image.tif": RGBA, "good/class1.tif": A})
    items = {item.image_id: item for item in open_reader(tmp_path).items()}
    cells = items["good"].load().record.instances
    assert cells is not None and len(cells) == 3
    with pytest.raises(ImageError, match=words) as caught:
        items["n"].load()
    assert caught.value.path == path and caught.value.remedy


def test_a_damaged_class_file_is_named(tmp_path: Path) -> None:
    build(tmp_path, {"n/image.tif": RGBA, "n/class1.tif": A})
    (tmp_path / "n" / "class2.tif").write_bytes((tmp_path / "n" / "class1.tif").read_bytes()[:60])
    with pytest.raises(ImageError) as caught:
        read_all(tmp_path)
    assert caught.value.path == "n/class2.tif"


def test_a_folder_without_class_files_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.images"):
        open_reader(tmp_path, images="nowhere")
    build(tmp_path, {"n/image.tif": RGBA, "class1.tif": A, "n/classes.tif": A})
    with pytest.raises(DataError, match=r"no folder with a class file .*data\.images"):
        open_reader(tmp_path)
