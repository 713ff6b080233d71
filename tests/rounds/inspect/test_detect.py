"""A data set is recognised from names and heads of files, and the evidence is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError
from cellsemi.configs.loading import load_config
from cellsemi.rounds.formats.shared import folder_scan
from cellsemi.rounds.formats.shared.folder_scan import FolderScan
from cellsemi.rounds.inspect.detect import detect
from cellsemi.rounds.store import run

DSB2018 = Path(__file__).resolve().parents[4] / "shared" / "data" / "dsb2018"
COCO = json.dumps({"info": {}, "images": [{"id": 1, "file_name": "a.tif"}], "annotations": [], "categories": []})


def lay(root: Path, *names: str, **texts: str) -> Path:
    """Empty files, and files with text (`a__b_csv` is a/b.csv)."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name, text in texts.items():
        path = root / (name.replace("__", "/").rpartition("_")[0] + "." + name.rpartition("_")[2])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def settings(path: Path) -> dict[str, Any]:
    """What was found, without the root; it must be a section that the config accepts."""
    found = detect(path)
    if found.source != "label-maps" or "class_column" not in found.settings:
        DataConfig(source=found.source, **found.settings)
    return {"source": found.source, **{key: value for key, value in found.settings.items() if key != "root"}}


def test_a_manifest_with_its_columns_of_class_and_group(tmp_path: Path) -> None:
    lay(tmp_path, "images/a.png", "masks/a.png", manifest_csv="id,split,kind,well\na,val,x,w1\n")
    assert settings(tmp_path) == {"source": "label-maps", "class_column": "kind", "group_column": "well"}
    assert settings(tmp_path / "manifest.csv") == settings(tmp_path)
    assert detect(tmp_path).settings["root"] == str(tmp_path)


def test_a_manifest_of_another_name_with_folders_of_other_names(tmp_path: Path) -> None:
    lay(tmp_path, "frames/a.png", "labels/a.png", list_csv="id,split\na,val\n")
    assert settings(tmp_path) == {"source": "label-maps", "manifest": "list.csv", "images": "frames", "masks": "labels"}


def test_a_folder_of_an_import_comes_before_what_else_lies_there(tmp_path: Path) -> None:
    lay(tmp_path, import_json="{}", manifest_csv="id,split\na,val\n")
    assert settings(tmp_path) == {"source": "shards"}


def test_a_run_leads_to_the_data_set_that_it_was_made_from(tmp_path: Path) -> None:
    config = load_config("dsb2018", ["data.root=/x/y", f"run.root={tmp_path}"]).config
    paths = run.open_run(config)
    paths.data.mkdir()
    found = detect(paths.root)
    settings = {"root": "/x/y", "classes": ["nucleus"], "where": {"modality": "fluorescence"}}
    assert (found.source, found.settings) == ("label-maps", settings)
    assert "run.yaml" in found.why and "data/" in found.why


def test_one_coco_file_and_its_images(tmp_path: Path) -> None:
    lay(tmp_path, "pictures/a.tif", "other/b.tif", annotations_json=COCO)
    expected = {"source": "coco", "annotations": "annotations.json", "images": "pictures"}
    assert settings(tmp_path) == settings(tmp_path / "annotations.json") == expected


def test_coco_files_of_the_splits_and_images_by_cell_type(tmp_path: Path) -> None:
    folders = ["train_val/A172/a.tif", "train_val/BV2/b.tif", "held_out/A172/c.tif", "held_out/BV2/d.tif"]
    texts = {f"livecell_{split}_json": COCO.replace("a.tif", name) for split, name in zip(
        ("train", "val", "test"), ("a.tif", "b.tif", "c.tif"), strict=True)}  # fmt: skip
    found = settings(lay(tmp_path, *folders, **texts))
    assert found == {
        "source": "coco",
        "annotations": {"labelled": "livecell_train.json", "val": "livecell_val.json", "test": "livecell_test.json"},
        "images": {"labelled": "train_val", "val": "train_val", "test": "held_out"},
    }


def test_folders_of_splits_with_the_same_names_stay_apart(tmp_path: Path) -> None:
    names = ["images/train/a.tif", "images/val/a.tif"]
    found = settings(lay(tmp_path, *names, train_json=COCO, val_json=COCO.replace("a.tif", "val/a.tif")))
    assert found["annotations"] == {"labelled": "train.json", "val": "val.json"}


def test_a_coco_file_whose_images_stand_last(tmp_path: Path) -> None:
    filler = [{"id": i, "segmentation": [[0] * 40]} for i in range(2000)]
    text = json.dumps({"annotations": filler, "images": [{"file_name": "a.tif"}]})
    assert len(text) > 2 * folder_scan.HEAD
    assert settings(lay(tmp_path, "x/a.tif", all_json=text))["images"] == "x"


@pytest.mark.parametrize(
    "text", ['{"shapes": [], "imagePath": "a.png"}', '{"features": []}', "[1, 2]", '{"a": {"images": 1}}']
)
def test_other_json_is_no_coco(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"no data set that is known.*1 \.json"):
        detect(lay(tmp_path, some_json=text))


def test_run_lengths_of_sartorius(tmp_path: Path) -> None:
    columns = "id,annotation,width,height,cell_type,plate_time,sample_date,sample_id,elapsed_timedelta"
    rows = f"{columns}\nab12,1 2,704,520,astro,x,y,s1,z\n"
    names = ["train/ab12.png", "test/t.png", "train_semi_supervised/shsy5y[diff]_1.png"]
    found = detect(lay(tmp_path, *names, train_csv=rows, sample_submission_csv="id,predicted\nt,\n"))
    assert found.source == "rle-csv" and found.others == ("sample_submission.csv",)
    assert found.settings == {
        "root": str(tmp_path),
        "annotations": "train.csv",
        "images": {"labelled": "train", "unlabelled": "train_semi_supervised"},
        "class_column": "cell_type",
        "group_column": "sample_id",
    }


def test_run_lengths_by_other_names(tmp_path: Path) -> None:
    lay(tmp_path, "pics/q/a.png", labels_csv="ImageId,EncodedPixels\na,1 2\n")
    assert settings(tmp_path) == {"source": "rle-csv", "annotations": "labels.csv", "images": "pics/q"}


def test_the_folders_of_dsb2018(tmp_path: Path) -> None:
    names = [f"stage1_train/{i}/{kind}" for i in "ab" for kind in ("images/x.png", "masks/m.png")]
    assert settings(lay(tmp_path, *names)) == {"source": "dsb2018", "images": "stage1_train"}
    assert settings(tmp_path / "stage1_train") == {"source": "dsb2018", "images": "."}
    lay(tmp_path, "stage1_test/c/images/x.png")
    assert settings(tmp_path)["images"] == {"labelled": "stage1_train", "unlabelled": "stage1_test"}


def test_class_files(tmp_path: Path) -> None:
    lay(tmp_path, "train/a/image.tif", "train/a/class1.tif", "train/b/image.tif", "train/b/class2.tif")
    assert settings(tmp_path) == {"source": "class-files", "images": "train"}
    lay(tmp_path, "unlabelled/c/image.tif")
    assert settings(tmp_path)["images"] == {"labelled": "train", "unlabelled": "unlabelled"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.tif", "a_masks.tif"], {"images": ".", "masks": ".", "mask_suffix": "_masks"}),
        (["a.png", "a_cp_masks.png"], {"images": ".", "masks": ".", "mask_suffix": "_cp_masks"}),
        (["d/a.jpg", "d/a_seg.npy"], {"images": "d", "masks": "d", "mask_suffix": "_seg"}),
        (["a.tif", "a.zip"], {"images": ".", "masks": ".", "mask_suffix": ""}),
        (["a.tif", "a.geojson"], {"images": ".", "masks": ".", "mask_suffix": ""}),
        (["images/a.png", "labels/a_label.tiff"], {"images": "images", "masks": "labels", "mask_suffix": "_label"}),
        (["images/a.png", "masks/a.png"], {"images": "images", "masks": "masks", "mask_suffix": ""}),
        (
            ["train/0_img.png", "train/0_masks.png", "test/1_img.png", "test/1_masks.png"],
            {
                "images": {"labelled": "train", "test": "test"},
                "masks": {"labelled": "train", "test": "test"},
                "mask_suffix": "_masks",
                "image_suffix": "_img",
            },
        ),
    ],
)
def test_images_with_an_annotation_file_of_their_own(
    tmp_path: Path, names: list[str], expected: dict[str, Any]
) -> None:
    assert settings(lay(tmp_path, *names)) == {"source": "paired", **expected}


def test_what_could_be_meant_as_well_is_said(tmp_path: Path) -> None:
    found = detect(lay(tmp_path, "a.tif", "a_masks.tif", "b.tif", "b_masks.tif", "more/c.tif", "more/c.zip"))
    assert found.settings["mask_suffix"] == "_masks" and found.others == ("more/c.tif with more/c.zip",)


def test_nothing_that_is_known_says_what_there_is(tmp_path: Path) -> None:
    lay(tmp_path, "a.png", "b.png", "notes/readme.txt", "__MACOSX/a_masks.png", ".hidden/a_masks.png")
    with pytest.raises(DataError, match=r"2 \.png, 1 \.txt in 2 folders looked at") as caught:
        detect(tmp_path)
    assert "manifest.csv" in str(caught.value) and "COCO" in str(caught.value)
    with pytest.raises(DataError, match="no such file or folder"):
        detect(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a file that lists a data set"):
        detect(tmp_path / "a.png")


@pytest.mark.parametrize("text", ["", "\0\0", "id,split", '"id,split\n', "id,id\na,b\n", "é" * 9])
def test_odd_tables_are_no_listing(tmp_path: Path, text: str) -> None:
    lay(tmp_path, "x.png", list_csv=text)
    if text == "id,split":
        assert detect(tmp_path).source == "label-maps"
    else:
        with pytest.raises(DataError, match="no data set that is known"):
            detect(tmp_path)


def test_the_scan_is_bounded(tmp_path: Path) -> None:
    lay(tmp_path, *(f"f{i:03d}/{j}/a.txt" for i in range(40) for j in range(3)), "deep/" + "d/" * 12 + "a.png")
    seen = FolderScan(tmp_path)
    assert len(seen.folders) <= 1 + folder_scan.SUBFOLDERS * 4 + folder_scan.DEPTH and len(seen.top.folders) == 41
    assert max(path.count("/") for path in seen.folders) < folder_scan.DEPTH


def test_the_data_beside_the_repository() -> None:
    if not (DSB2018 / "manifest.csv").is_file():
        pytest.skip("no DSB2018 beside the repository (../shared/data/dsb2018)")
    assert settings(DSB2018) == {"source": "label-maps"}
