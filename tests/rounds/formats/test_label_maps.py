"""A folder of label maps: what is right is read as it stands, what is wrong is named with file and line."""

from __future__ import annotations

import unicodedata
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
from cellsemi.rounds.formats.label_map.reader import LabelMaps, ManifestRow, read_manifest
from cellsemi.rounds.store.image_codec import decode_image, to_png
from cellsemi.rounds.store.schemas import ImageRecord

DSB2018 = Path(__file__).resolve().parents[4] / "shared" / "data" / "dsb2018"
LABELS = np.array([[0, 1, 1, 0], [0, 0, 3, 3], [2, 0, 3, 3]], np.uint16)
IMAGE = np.arange(12, dtype=np.uint8).reshape(3, 4)


def build(
    root: Path,
    rows: str,
    images: dict[str, NDArray[Any]] | None = None,
    label_maps: dict[str, NDArray[Any]] | None = None,
) -> Path:
    """A data set on disk; the values of `images` and `label_maps` become files by their extension."""
    for folder, content in (("images", images or {}), ("masks", label_maps or {})):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, pixels in content.items():
            (root / folder / name).write_bytes(encode(name, pixels))
    (root / "manifest.csv").write_text(rows, encoding="utf-8")
    return root


def encode(name: str, pixels: NDArray[Any]) -> bytes:
    buffer = BytesIO()
    if name.lower().endswith((".tif", ".tiff")):
        tifffile.imwrite(buffer, pixels)
    else:
        Image.fromarray(pixels).save(buffer, "JPEG" if name.lower().endswith("g") and "jp" in name else "PNG")
    return buffer.getvalue()


def config(root: Path, **options: Any) -> DataConfig:
    return DataConfig(source="label-maps", root=str(root), **options)


def read_all(root: Path, **options: Any) -> list[ImageRecord]:
    found = Config(data=config(root, **options))
    items = open_data(found).items
    return [read_record(item, ClassNames(found.data), IngestReport()) for item in items]


def test_a_record_holds_the_bytes_the_cells_and_what_the_manifest_says(tmp_path: Path) -> None:
    rows = "id,split,kind,well,note\na,labelled,astro,w1,x\nb,unlabelled,,,\nc,val,cort,w2,\n"
    images = {"a.png": IMAGE, "b.png": IMAGE + 1, "c.tif": IMAGE + 2}
    build(tmp_path, rows, images, {"a.png": LABELS, "c.tif": np.zeros((3, 4), np.uint8)})
    a, b, c = read_all(tmp_path, classes=("cort", "astro"), class_column="kind", group_column="well")
    assert (a.image_id, a.split, a.group, a.cell_type, a.source) == (
        "a", "labelled", "w1", "astro", "images/a.png",
    )  # fmt: skip
    assert (a.height, a.width) == (3, 4) and a.image == (tmp_path / "images" / "a.png").read_bytes()
    assert a.instances is not None and a.instances.class_id.tolist() == [1, 1, 1]
    assert set(a.instances.state) == {"human"} and a.instances.area.tolist() == [2, 1, 4]
    assert np.array_equal(masks.to_label_map(a.instances), LABELS)
    assert b.instances is None and b.group is None and b.cell_type is None
    assert c.instances is not None and len(c.instances) == 0
    assert len({record.sha256 for record in (a, b, c)}) == 3


def test_the_masks_of_unlabelled_images_are_never_opened_but_can_be_asked_for(tmp_path: Path) -> None:
    build(tmp_path, "id,split\na,unlabelled\n", {"a.png": IMAGE}, {"a.png": LABELS})
    mask = tmp_path / "masks" / "a.png"
    good = mask.read_bytes()
    mask.write_bytes(b"not an image")
    dataset = LabelMaps(config(tmp_path))
    record = dataset.load(dataset.rows[0]).record
    assert record.instances is None
    mask.write_bytes(good)
    assert np.array_equal(masks.to_label_map(dataset.read_hidden_truth(record)), LABELS)


def test_an_unlabelled_pool_needs_no_folder_of_masks(tmp_path: Path) -> None:
    build(tmp_path, "id,split\na,unlabelled\n", {"a.png": IMAGE})
    (tmp_path / "masks").rmdir()
    assert len(read_all(tmp_path)) == 1


@pytest.mark.parametrize(
    "image_id",
    ["plain", "with space", "astro[cereb]_0[1]", "*?", "naïve-細胞", "a.b", "well.1", "-x", "..a"[1:], "é"],
)
def test_ids_of_any_spelling_find_their_files(tmp_path: Path, image_id: str) -> None:
    build(tmp_path, f"id,split\n{image_id},labelled\n", {f"{image_id}.png": IMAGE}, {f"{image_id}.png": LABELS})
    (record,) = read_all(tmp_path)
    assert record.image_id == image_id and record.instances is not None and len(record.instances) == 3


def test_a_name_stored_decomposed_is_found_by_a_composed_id(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "né.png")
    build(tmp_path, f"id,split\n{unicodedata.normalize('NFC', 'né')},labelled\n", {name: IMAGE}, {name: LABELS})
    assert len(read_all(tmp_path)) == 1


@pytest.mark.parametrize(
    ("image_id", "image", "mask"),
    [
        ("a", "a.PNG", "a.TIFF"),
        ("a.png", "a.png", "a.png"),
        ("a.jpg", "a.jpg", "a.tif"),
        ("a.tif", "a.TIF", "a.png"),
    ],
)
def test_extensions_in_any_case_in_the_file_or_in_the_id(tmp_path: Path, image_id: str, image: str, mask: str) -> None:
    build(tmp_path, f"id,split\n{image_id},labelled\n", {image: IMAGE}, {mask: LABELS})
    (record,) = read_all(tmp_path)
    assert record.source == f"images/{image}" and record.instances is not None and len(record.instances) == 3


@pytest.mark.parametrize(
    ("images", "label_maps", "words"),
    [
        ({}, {}, "images/a: there is no such file"),
        ({"b.png": IMAGE}, {}, "images/a: there is no such file"),
        ({"a.png": IMAGE, "a.tif": IMAGE}, {}, "several files fit: images/a.png, images/a.tif"),
        ({"a.png": IMAGE}, {}, "masks/a: there is no such file"),
        ({"a.png": IMAGE}, {"a.png": LABELS.T.copy()}, "label map is 3x4, the image 4x3"),
        (
            {"a.png": IMAGE},
            {"a.png": (LABELS > 0) * np.uint8(255)},
            "the value 255 stands in 2 pieces",
        ),
        ({"a.png": IMAGE}, {"a.png": np.zeros((3, 4, 3), np.uint8)}, "masks/a.png: the label map has colour"),
        ({"a.png": IMAGE}, {"a.jpg": LABELS.astype(np.uint8)}, "a JPEG cannot hold a label map"),
    ],
)
def test_what_is_wrong_with_one_image_is_an_image_error(
    tmp_path: Path, images: dict[str, NDArray[Any]], label_maps: dict[str, NDArray[Any]], words: str
) -> None:
    build(tmp_path, "id,split\na,labelled\n", images, label_maps)
    with pytest.raises(ImageError, match=words) as caught:
        read_all(tmp_path)
    assert caught.value.remedy and str(tmp_path) not in str(caught.value)


def test_one_cell_of_the_value_255_is_a_cell(tmp_path: Path) -> None:
    build(tmp_path, "id,split\na,val\n", {"a.png": IMAGE}, {"a.png": (LABELS == 3) * np.uint8(255)})
    (record,) = read_all(tmp_path)
    assert record.instances is not None and record.instances.area.tolist() == [4]


def test_a_folder_in_the_place_of_an_image_is_an_image_error(tmp_path: Path) -> None:
    build(tmp_path, "id,split\na,labelled\n")
    (tmp_path / "images" / "a.png").mkdir()
    with pytest.raises(ImageError, match="images/a: there is no such file"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("id,split\na,train\n", r"line 2: split 'train', expected one of labelled, unlabelled, val, test"),
        ("id,split\n\na,val\nb,unlabeled\n", r"line 4: split 'unlabeled'.*did you mean 'unlabelled'"),
        ('id,split,n\na,val,"x\ny"\nb,Val,\n', "line 4: split 'Val'"),
        ("id,split\na,val\nb,val\na,test\n", "id 'a' stands in line 2 and in line 4"),
        ("id,split\na\n", "line 2: 1 values, expected 2"),
        ("id,split\na,val,7\n", "line 2: 3 values, expected 2"),
        ("id|split\na|val\n", "no column 'id'; it has: id|split"),
        ("name,split\na,val\n", "no column 'id'; it has: name, split"),
        ("id,split,id\na,val,b\n", "a column name stands twice"),
        ("id,split\n", "there are no rows"),
        ("", "no column 'id'; it has: nothing"),
        ("id,split\n ,val\n", "line 2: the id is empty"),
        ("id,split\n../../etc/passwd,val\n", "line 2: id '../../etc/passwd' holds '/'"),
        ("id,split\n/etc/passwd,val\n", "holds '/'"),
        ("id,split\na\\b,val\n", "holds "),
        ("id,split\n..,val\n", "holds '..'"),
        ("id,split\na\0b,val\n", "line 2"),
        ('id,split\n"a,val\n', "not valid CSV"),
    ],
)
def test_a_wrong_manifest_names_the_line_and_what_is_valid(tmp_path: Path, rows: str, words: str) -> None:
    build(tmp_path, rows)
    with pytest.raises(DataError, match=words) as caught:
        LabelMaps(config(tmp_path))
    assert "manifest.csv" in str(caught.value) and not isinstance(caught.value, ImageError)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"where": {"stain": "x"}}, "no column 'stain', which data.where names; it has: id, split, kind"),
        ({"where": {"kind": "x"}}, "none of the 3 rows has {'kind': 'x'}"),
        ({"group_column": "well"}, "no column 'well', which data.group_column names"),
        ({"class_column": "type"}, "no column 'type', which data.class_column names"),
        ({"class_column": "kind", "classes": ("astro",)}, "line 3: class 'cort', expected one of astro"),
        ({"class_column": "kind", "classes": ("astro", "cort")}, "line 4: no class in 'kind'"),
    ],
)
def test_columns_and_classes_are_checked_against_the_config(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    build(tmp_path, "id,split,kind\na,labelled,astro\nb,val,cort\nc,test,\n")
    with pytest.raises(DataError, match=words):
        read_all(tmp_path, **options)


def test_only_the_rows_that_where_selects_are_used_and_checked(tmp_path: Path) -> None:
    build(tmp_path, "id,split,kind,n\na,labelled,astro,1\nb,odd,cort,1\nc,test,astro,2\nd,val,astro,1\n")
    data = config(tmp_path, where={"kind": "astro", "n": "1"})
    assert read_manifest(tmp_path / "manifest.csv", data) == [
        ManifestRow("a", "labelled", 2, None, None),
        ManifestRow("d", "val", 5, None, None),
    ]


def test_missing_places_are_named_with_their_setting(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root"):
        LabelMaps(config(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"data\.manifest"):
        LabelMaps(config(tmp_path))
    (tmp_path / "manifest.csv").write_text("id,split\na,val\n")
    with pytest.raises(DataError, match=r"data\.images"):
        LabelMaps(config(tmp_path))
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"data\.masks"):
        LabelMaps(config(tmp_path))


def test_a_byte_order_mark_is_no_part_of_the_first_column_and_other_encodings_are_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes("id,split\né,val\n".encode("utf-8-sig"))
    assert read_manifest(path, config(tmp_path))[0].image_id == "é"
    path.write_bytes("id,split\né,val\n".encode("latin-1"))
    with pytest.raises(DataError, match="save it as UTF-8"):
        read_manifest(path, config(tmp_path))


def test_a_handful_of_real_images() -> None:
    if not (DSB2018 / "manifest.csv").is_file():
        pytest.skip("no DSB2018 beside the repository (../shared/data/dsb2018)")
    dataset = LabelMaps(config(DSB2018, where={"modality": "fluorescence"}))
    assert len(dataset.rows) == 540
    for row in [row for row in dataset.rows if row.split == "val"][:4]:
        record = dataset.load(row).record
        reference = np.asarray(Image.open(DSB2018 / "masks" / f"{row.image_id}.png"))
        assert record.instances is not None and record.image is not None
        assert len(record.instances) == len(np.unique(reference)) - 1
        assert np.array_equal(masks.to_label_map(record.instances) > 0, reference > 0)
        assert decode_image(record.image, "a").shape == reference.shape


def test_png_written_by_cellsemi_is_read_by_it(tmp_path: Path) -> None:
    build(tmp_path, "id,split\na,test\n")
    (tmp_path / "images" / "a.png").write_bytes(to_png(IMAGE))
    (tmp_path / "masks" / "a.png").write_bytes(to_png(LABELS))
    (record,) = read_all(tmp_path)
    assert record.instances is not None and len(record.instances) == 3
