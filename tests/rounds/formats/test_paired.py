"""Images paired with an annotation file of their own: what belongs together is found, nothing else is."""

from __future__ import annotations

import random
import tracemalloc
import unicodedata
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.configs.schema import Config
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.ingest_report import IngestReport
from cellsemi.rounds.datasets.open import open_data
from cellsemi.rounds.datasets.read_shards import read_record
from cellsemi.rounds.formats.base import FileCells, Item, parts_of
from cellsemi.rounds.formats.cellpose import seg_npy
from cellsemi.rounds.formats.imagej import roi_set
from cellsemi.rounds.formats.label_map.foreground import foreground
from cellsemi.rounds.formats.label_map.label_map import cells_of_label_map
from cellsemi.rounds.formats.label_map.writer import to_tiff, write_label_maps
from cellsemi.rounds.formats.paired.reader import Paired
from cellsemi.rounds.store.schemas import ImageRecord

LABELS = np.array([[0, 1, 1, 0], [0, 0, 3, 3], [2, 0, 3, 3]], np.uint16)
IMAGE = np.arange(12, dtype=np.uint8).reshape(3, 4)
NFC, NFD = unicodedata.normalize("NFC", "né"), unicodedata.normalize("NFD", "né")


def encode(name: str, pixels: NDArray[Any]) -> bytes:
    """The bytes of a file of this name: TIFF, NumPy, JPEG or PNG."""
    buffer = BytesIO()
    if name.lower().endswith((".tif", ".tiff")):
        tifffile.imwrite(buffer, pixels)
    elif name.endswith("_seg.npy"):
        np.save(buffer, {"masks": pixels, "outlines": pixels}, allow_pickle=True)
    elif name.endswith(".npy"):
        np.save(buffer, pixels)
    elif name.endswith(".jpg"):
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG")
    else:
        Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def build(root: Path, *names: str, labels: NDArray[Any] = LABELS) -> None:
    """Files below `root`: the names that hold "mask", "label" or "seg" are label maps, all others images."""
    for name in names:
        is_mask = any(word in name for word in ("mask", "label", "seg"))
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(name, labels if is_mask else IMAGE))


def config(root: Path, **options: Any) -> Config:
    return Config(data=DataConfig(source="paired", root=str(root), **({"images": ".", "masks": "."} | options)))


def opened(root: Path, **options: Any) -> list[Paired]:
    return [Paired(part) for part in parts_of(config(root, **options).data)]


def listed(root: Path, **options: Any) -> dict[str, Item]:
    """The images by id; those whose split is still to be drawn are labelled."""
    items = [item for reader in opened(root, **options) for item in reader.items()]
    return {item.image_id: replace(item, split=item.split or "labelled") for item in items}


def read_all(root: Path, **options: Any) -> dict[str, ImageRecord]:
    names = ClassNames(config(root, **options).data)
    items = listed(root, **options).items()
    return {image_id: read_record(item, names, IngestReport()) for image_id, item in items}


def notes(root: Path, **options: Any) -> tuple[str, ...]:
    (reader,) = opened(root, **options)
    return reader.notes


def assert_is_annotated(record: ImageRecord, labels: NDArray[Any] = LABELS) -> None:
    assert record.instances is not None and set(record.instances.state) == {"human"}
    assert np.array_equal(masks.to_label_map(record.instances), labels)


@pytest.mark.parametrize(
    ("image", "mask", "options"),
    [
        ("X.tif", "X_masks.tif", {}),
        ("X.png", "X_masks.TIFF", {}),
        ("X.jpg", "X_masks.png", {}),
        ("X.tif", "X_seg.npy", {"mask_suffix": "_seg"}),
        ("X.tif", "X_masks.npy", {}),
        ("X.png", "X_cp_masks.png", {"mask_suffix": "_cp_masks"}),
        ("X_img.png", "X_masks.png", {"image_suffix": "_img"}),
        ("images/c_01.png", "labels/c_01_label.tiff", {"images": "images", "masks": "labels", "mask_suffix": "_label"}),
        ("images/X.png", "masks/X.png", {"images": "images", "masks": "masks", "mask_suffix": ""}),
        ("X.png", "masks/X.png", {"masks": "masks", "mask_suffix": ""}),
        ("a/b/X.png", "a/b/X_masks.png", {"images": "a", "masks": "a"}),
        ("images/b/X.png", "masks/b/X_masks.png", {"images": "images", "masks": "masks"}),
        ("images/b/X.png", "masks/c/X_masks.png", {"images": "images", "masks": "masks"}),
        ("images/X.png", "X_masks.png", {"images": "images"}),
        ("images/X.png", "images/X_masks.png", {"images": "images", "masks": "images/"}),
        ("X [1] (2)*.png", "X [1] (2)*_masks.png", {}),
        ("細胞 é.png", "細胞 é_masks.tif", {}),
        (f"{NFC}.png", f"{NFD}_masks.png", {}),
        (f"{NFD}.png", f"{NFC}_masks.png", {}),
        ("X.y.png", "X.y_masks.png", {}),
        ("_masks_1.png", "_masks_1_masks.png", {}),
    ],
)  # fmt: skip
def test_an_image_and_its_annotation_are_found(tmp_path: Path, image: str, mask: str, options: dict[str, Any]) -> None:
    for name, pixels in ((image, IMAGE), (mask, LABELS)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encode(name, pixels))
    (record,) = read_all(tmp_path, **options).values()
    assert record.source == image and record.image == (tmp_path / image).read_bytes()
    assert record.image_id == unicodedata.normalize("NFC", Path(image).stem)
    assert_is_annotated(record)
    told = ("written by a model of Cellpose",) if "_cp_masks" in mask else ()
    assert [word for word in told if word not in "".join(notes(tmp_path, **options))] == []
    assert len(notes(tmp_path, **options)) == len(told)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.float32])
def test_label_maps_of_8_16_and_32_bits(tmp_path: Path, dtype: Any) -> None:
    build(tmp_path, "X.png")
    (tmp_path / "X_masks.tif").write_bytes(encode(".tif", LABELS.astype(dtype)))
    assert_is_annotated(read_all(tmp_path)["X"])


def test_more_cells_than_16_bits_can_number(tmp_path: Path) -> None:
    labels = np.arange(90_000, dtype=np.uint32).reshape(300, 300)
    labels[labels > 66_000] = 0
    (tmp_path / "X.png").write_bytes(encode(".png", np.zeros((300, 300), np.uint8)))
    (tmp_path / "X_masks.tif").write_bytes(encode(".tif", labels))
    cells = read_all(tmp_path)["X"].instances
    rows, columns = np.divmod(np.arange(1, 66_001), 300)
    assert cells is not None and np.array_equal(cells.bbox[:, :2], np.stack([columns, rows], 1))


def test_an_image_with_an_alpha_channel(tmp_path: Path) -> None:
    rgba = np.dstack([IMAGE, IMAGE + 1, IMAGE + 2, np.full_like(IMAGE, 255)])
    build(tmp_path, "X_masks.png")
    (tmp_path / "X.png").write_bytes(encode(".png", rgba))
    record = read_all(tmp_path)["X"]
    assert (record.height, record.width) == (3, 4)
    assert_is_annotated(record)


def test_an_empty_label_map_is_an_image_without_cells(tmp_path: Path) -> None:
    build(tmp_path, "X.png", "X_masks.png", labels=LABELS * 0)
    cells = read_all(tmp_path)["X"].instances
    assert cells is not None and len(cells) == 0


def test_an_image_that_nobody_annotated_is_not_empty(tmp_path: Path) -> None:
    build(tmp_path, "X.png", "X_masks.png", "Y.png")
    items = listed(tmp_path)
    assert_is_annotated(items["X"].load().record)
    with pytest.raises(ImageError, match=r"Y\.png: no annotation file .expected Y_masks with") as caught:
        items["Y"].load()
    assert "data.images.unlabelled" in caught.value.remedy and "empty label map" in caught.value.remedy


def test_names_that_occur_in_several_folders_stay_in_their_folder(tmp_path: Path) -> None:
    build(tmp_path, "images/a/X.png", "images/b/X.png", "masks/a/X_masks.png")
    build(tmp_path, "masks/b/X_masks.png", labels=LABELS.max() - LABELS)
    found = read_all(tmp_path, images="images", masks="masks")
    assert_is_annotated(found["a__X"])
    assert found["b__X"].instances is not None and found["b__X"].instances.area.tolist() == [1, 2, 5]


def test_an_annotation_is_not_lent_to_an_image_of_the_same_name(tmp_path: Path) -> None:
    build(tmp_path, "images/a/X.png", "images/b/X.png", "masks/a/X_masks.png")
    items = listed(tmp_path, images="images", masks="masks")
    assert_is_annotated(items["a__X"].load().record)
    with pytest.raises(ImageError, match=r"images/b/X\.png: no annotation file .expected masks/b/X_masks"):
        items["b__X"].load()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("X.png", "X_masks.png", "X_masks.tif"), "several annotation files fit: X_masks.png, X_masks.tif"),
        (("X.png", "b/X_masks.png", "c/X_masks.png"), "several annotation files fit: b/X_masks.png, c/X_masks.png"),
        (("X.png", "X.jpg", "X_masks.png"), "X_masks.png fits X.(png|jpg) as well"),
        (("X.png", "X_masks.jpg"), "X_masks.jpg: a JPEG cannot hold a label map"),
    ],
)
def test_what_is_ambiguous_is_refused(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    build(tmp_path, *names)
    for item in listed(tmp_path).values():
        with pytest.raises(ImageError, match=words) as caught:
            item.load()
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (LABELS.T.copy(), "label map is 3x4, the image 4x3"),
        ((LABELS > 0) * np.uint8(255), "the value 255 stands in 2 pieces: a mask of foreground"),
        (np.zeros((3, 4, 3), np.uint8), "has colour"),
        (LABELS.astype(np.int16) - 1, "holds -1 to 2"),
        (np.stack([LABELS] * 5), "5 pages"),
        (LABELS + np.float32(0.5), "not whole numbers"),
    ],
)
def test_a_label_map_that_is_none_names_its_file(tmp_path: Path, mask: NDArray[Any], words: str) -> None:
    build(tmp_path, "X.png")
    buffer = BytesIO()
    tifffile.imwrite(buffer, mask, photometric="rgb" if mask.shape[-1] == 3 and mask.ndim == 3 else "minisblack")
    (tmp_path / "X_masks.tif").write_bytes(buffer.getvalue())
    with pytest.raises(ImageError, match=words) as caught:
        read_all(tmp_path)
    assert caught.value.path == "X_masks.tif"


def test_files_that_are_not_used_are_counted_with_their_first_names(tmp_path: Path) -> None:
    lonely = [f"{name}_masks.png" for name in "abcd"]
    build(tmp_path, "X_img.png", "X_masks.png", "overview.png", *lonely)
    assert notes(tmp_path, image_suffix="_img") == (
        "4 annotation files belong to no image and are not used: a_masks.png, b_masks.png, c_masks.png, ..",
        "1 images do not end in '_img' (data.image_suffix) and are not used: overview.png",
    )
    assert list(listed(tmp_path, image_suffix="_img")) == ["X_img"]


def test_what_cellpose_leaves_beside_an_image_is_not_an_image(tmp_path: Path) -> None:
    build(tmp_path, "X.tif", "X_seg.npy", "X_cp_masks.png", "X_flows.tif")
    assert_is_annotated(read_all(tmp_path, mask_suffix="_seg")["X"])
    (note,) = notes(tmp_path, mask_suffix="_seg")
    assert note.startswith("2 files are Cellpose's output") and note.endswith("X_cp_masks.png, X_flows.tif")


def test_places_without_an_image_are_named_with_their_setting(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.images"):
        listed(tmp_path, images="images")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"data\.masks"):
        listed(tmp_path, images="images", masks="masks")
    with pytest.raises(DataError, match=r"no images; data\.images"):
        listed(tmp_path, images="images")
    build(tmp_path, "images/X_masks.png")
    with pytest.raises(DataError, match="none of the 1 image files"):
        listed(tmp_path, images="images")
    build(tmp_path, "images/X.png")
    with pytest.raises(DataError, match=r"data\.image_suffix '_img'"):
        listed(tmp_path, images="images", image_suffix="_img")


def test_class_and_group_stand_in_the_path_and_parts_have_folders_of_their_own(tmp_path: Path) -> None:
    for name in ("train/astro/w1_X", "val/cort/w2_Y", "test/cort/w3_Z"):
        build(tmp_path, f"{name}.png", f"{name}_masks.png")
    places = {"labelled": "train", "val": "val", "test": "test"}
    options: dict[str, Any] = {"images": places, "masks": places, "classes": ("cort", "astro")}
    options |= {"class_pattern": "/(astro|cort)/", "group_pattern": r"(w\d+)_"}
    found = read_all(tmp_path, **options)
    assert [item.image_id for item in open_data(config(tmp_path, **options)).items] == list(found)
    assert {name: (record.split, record.cell_type, record.group) for name, record in found.items()} == {
        "w1_X": ("labelled", "astro", "w1"),
        "w2_Y": ("val", "cort", "w2"),
        "w3_Z": ("test", "cort", "w3"),
    }
    assert found["w1_X"].instances is not None and found["w1_X"].instances.class_id.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("annotation", "classes"),
    [("X_masks.png", ()), ("X_masks.npy", ()), ("X_masks.geojson", None), ("X_masks.zip", None)],
)
def test_only_some_formats_know_classes_that_the_listing_does_not(
    tmp_path: Path, annotation: str, classes: tuple[str, ...] | None
) -> None:
    build(tmp_path, "X.png", annotation)
    (reader,) = opened(tmp_path)
    assert reader.classes == classes


def test_an_annotation_is_read_by_the_format_of_its_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, "X.png")
    (tmp_path / "X.roi").write_bytes(b"content")

    def read(content: bytes, path: str, record: ImageRecord) -> FileCells:
        assert (content, path) == (b"content", "X.roi")
        return FileCells(Instances.empty(record.height, record.width), ("tumour",))

    monkeypatch.setattr(roi_set, "ROI_SET", replace(roi_set.ROI_SET, read_annotation=read))
    loaded = listed(tmp_path, mask_suffix="")["X"].load()
    assert loaded.classes == ("tumour",) and loaded.record.instances is not None


@pytest.mark.parametrize(("writer", "suffix"), [(write_label_maps, "_masks"), (seg_npy.write_seg_npy, "_seg")])
def test_an_exported_folder_is_a_data_set(tmp_path: Path, writer: Any, suffix: str) -> None:
    build(tmp_path / "in", "x y [1].png", "x y [1]_masks.tif", "é.tif", "é_masks.png", "z.jpg", "z_masks.png")
    before = read_all(tmp_path / "in")
    done = writer(before.values(), tmp_path / "out", ("cell",))
    assert (done.images, done.cells, done.losses) == (3, 9, {})
    after = read_all(tmp_path / "out", mask_suffix=suffix)
    assert notes(tmp_path / "out", mask_suffix=suffix) == () and list(after) == list(before)
    for name, record in before.items():
        again = after[name]
        assert record.instances is not None and again.instances is not None
        assert (again.image, again.sha256) == (record.image, record.sha256)
        assert again.instances.rle == record.instances.rle


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 6)))
def test_cells_survive_writing_and_reading(tmp_path: Path, labels: NDArray[np.uint16]) -> None:
    assume(foreground(labels) is None)
    height, width = labels.shape
    cells = masks.from_label_map(labels, state="human")
    image = encode(".png", np.zeros((height, width), np.uint8))
    record = ImageRecord("X", height, width, "val", image, "X.png", instances=cells)
    for writer, suffix in ((write_label_maps, "_masks"), (seg_npy.write_seg_npy, "_seg")):
        writer([record], tmp_path / suffix, ("cell",))
        found = listed(tmp_path / suffix, mask_suffix=suffix)["X"].load().record.instances
        assert found is not None and found.rle == cells.rle and np.array_equal(found.bbox, cells.bbox)


def test_damaged_label_maps_end_in_an_image_error_or_in_cells_and_in_little_memory() -> None:
    draw = random.Random(11)
    record = ImageRecord("X", 3, 4, "val")
    originals = [encode("X.tif", LABELS), encode("X.png", LABELS), to_tiff(LABELS)]
    good = 0
    tracemalloc.start()
    try:
        for number in range(300):
            content = bytearray(originals[number % 3])
            for _ in range(draw.randint(1, 3)):
                content[draw.randrange(len(content))] = draw.randrange(256)
            damaged = bytes(content[: draw.randrange(len(content))] if number % 4 == 0 else content)
            with suppress(ImageError):
                cells = cells_of_label_map(damaged, "X", record, 1_000_000)
                assert (cells.height, cells.width) == (3, 4)
                good += 1
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()
    assert 10 < good < 290


def test_a_folder_of_another_split_inside_is_not_read_twice(tmp_path: Path) -> None:
    build(tmp_path, "a.png", "a_masks.png", "unlabelled/u.png", "kept/test/t.png", "kept/test/t_masks.png")
    build(tmp_path, "b.png", "b_masks.png")
    images = {"labelled": ".", "unlabelled": "unlabelled", "test": "kept/test"}
    found = {item.image_id: item.split for item in open_data(config(tmp_path, images=images)).items}
    assert found.pop("u") == "unlabelled" and found.pop("t") == "test" and set(found) == {"a", "b"}
