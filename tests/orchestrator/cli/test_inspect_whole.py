"""`cellsemi data inspect` hides nothing: what it passes over is counted, and a fault of one file ends nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.cases import Drawn, case, drawn, inspected, save, shown
from helpers.exports import sartorius
from helpers.terminal import invoke
from PIL import Image

from cellsemi.configs.loading import load_config
from cellsemi.rounds.cells import masks
from cellsemi.rounds.colours import GREY, PALETTE
from cellsemi.rounds.datasets.export import named
from cellsemi.rounds.store import run
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.shards import write_folder


@pytest.fixture
def pictures() -> list[Drawn]:
    return [drawn(number) for number in range(1, 5)]


def pairs(root: Path, pictures: list[Drawn]) -> Path:
    for picture in pictures:
        save(root / f"{picture.name}.png", picture.pixels)
        save(root / f"{picture.name}_masks.png", picture.labels)
    return root


# --- what is passed over ------------------------------------------------------------------------------------


def test_each_kind_of_file_that_is_not_read_is_counted_in_the_last_lines(tmp_path: Path, pictures: list[Drawn]) -> None:
    data = pairs(tmp_path / "data", pictures)
    for name in ("a.czi", "b.czi", "notes.txt", ".hidden", "README", "other_masks.png", "more/im9.json", "list.csv"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text("x", encoding="utf-8")
    (data / "gone.tif").symlink_to(tmp_path / "nowhere.tif")
    save(data / "extra" / "plain.png", pictures[0].pixels)
    found = {each["reason"]: (each["count"], each["first"]) for each in inspected(data)["passed_over"]}
    assert found.pop("links that lead nowhere", None) is None  # it is an image that cannot be used
    assert found == {
        ".czi pictures, a kind that is not read: convert them to TIFF or PNG": (2, "a.czi"),
        ".txt files, neither image nor annotations": (1, "notes.txt"),
        ".csv files, neither image nor annotations": (1, "list.csv"),
        "hidden files, and what archives of macOS hold": (1, ".hidden"),
        "files without an extension": (1, "README"),
        "annotation files that belong to no image": (2, "more/im9.json"),
    }
    last = shown(data).partition("Passed over")[2]
    assert all(f"{count} {reason}: {first}" in last for reason, (count, first) in found.items())
    assert "init" not in last  # nothing stands behind it


def test_images_that_no_listing_names_are_counted(tmp_path: Path) -> None:
    sartorius(tmp_path / "data")
    save(tmp_path / "data" / "test" / "t.png", drawn(7).pixels)
    (found,) = inspected(tmp_path / "data")["passed_over"]
    assert found["first"] == "test/t.png" and found["reason"].startswith("images that nothing lists")


def test_nothing_is_passed_over_in_a_plain_data_set(tmp_path: Path, pictures: list[Drawn]) -> None:
    assert inspected(pairs(tmp_path / "data", pictures))["passed_over"] == []
    assert "Passed over" not in shown(tmp_path / "data")


def test_a_link_that_leads_nowhere_ends_nothing(tmp_path: Path, pictures: list[Drawn]) -> None:
    data = pairs(tmp_path / "data", pictures)
    for name in ("a.json", "b.csv", "folder"):
        (data / name).symlink_to(tmp_path / "nowhere")
    found = inspected(data)
    assert found["cells"] == 12
    reasons = {each["reason"]: each["count"] for each in found["passed_over"]}
    assert reasons["links that lead nowhere"] == 2  # a.json is an annotation file by its name
    save(tmp_path / "other.png", pictures[0].pixels)
    (data / "im5.png").symlink_to(tmp_path / "gone.png")
    (data / "im5_masks.png").symlink_to(tmp_path / "gone.png")
    assert [row["path"] for row in inspected(data)["quarantined"]] == ["im5.png"]


# --- splits, names, suffixes --------------------------------------------------------------------------------


def test_splits_that_cannot_be_drawn_hide_nothing(tmp_path: Path, pictures: list[Drawn]) -> None:
    for number, picture in enumerate(pictures):
        save(tmp_path / "data" / "images" / f"w{number % 2}_{number}.png", picture.pixels)
        save(tmp_path / "data" / "masks" / f"w{number % 2}_{number}.png", picture.labels)
    found = inspected(tmp_path / "data", "data.group_pattern='(w[0-9])'")
    assert (found["cells"], found["listed"]["labelled"], found["groups"]) == (12, 4, 2)
    assert any("2 groups cannot fill 3 splits" in note for note in found["notes"])
    assert any("only 2 groups" in hint for hint in found["hints"])


@pytest.mark.parametrize("name", ["train_reencoded.csv", "labels/all.csv"])
def test_a_csv_of_any_name_finds_the_folder_of_its_images(tmp_path: Path, name: str) -> None:
    sartorius(tmp_path / "data")
    text = (tmp_path / "data" / "train.csv").read_text(encoding="utf-8")
    header, _, rows = text.partition("\n")
    absent = "".join(f"gone{number},1 2,56,40,cort,11h,2019,x\n" for number in range(20))
    (tmp_path / "data" / "train.csv").unlink()
    (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "data" / name).write_text(f"{header}\n{absent}{rows}", encoding="utf-8")
    (tmp_path / "data" / "test").mkdir()
    found = inspected(tmp_path / "data")
    assert found["data"]["images"] == "train" and found["data"]["annotations"] == name and found["cells"] == 12


@pytest.mark.parametrize(
    ("kind", "out", "expected"),
    [
        ("coco", "x", "x.json"),
        ("coco", "x.JSON", "x.JSON"),
        ("coco", "x.v2", "x.v2.json"),
        ("kaggle", "x", "x.csv"),
        ("measurements", "x", "x.csv"),
        ("geojson", "x", "x"),
        ("label-maps", "x.y", "x.y"),
    ],
)
def test_an_exported_file_has_the_suffix_of_its_format(kind: str, out: str, expected: str) -> None:
    assert named(kind, Path("a") / out) == Path("a") / expected


def test_an_export_without_a_suffix_can_be_checked(tmp_path: Path, pictures: list[Drawn]) -> None:
    data, shards = pairs(tmp_path / "data", pictures), str(tmp_path / "s")
    assert invoke("data", "import", str(data), "--out", shards).exit_code == 0
    done = invoke("data", "export", shards, "--format", "coco", "--out", str(tmp_path / "x"), "--json")
    assert json.loads(done.stdout)["out"] == str(tmp_path / "x.json")
    assert invoke("data", "check", str(tmp_path / "x.json")).exit_code == 0


# --- a run's own shards -------------------------------------------------------------------------------------


def test_shards_of_a_run_are_shown_with_scores_states_and_reasons(tmp_path: Path, pictures: list[Drawn]) -> None:
    records = []
    for picture in pictures:
        crops = [(cell, 0, 0) for cell in picture.cells]
        cells = masks.from_crops(
            *picture.pixels.shape, crops, state=["accepted", "rejected", "ignored"], score=[0.9, 0.2, 0.5],
            reason=["", "too small", "torn"],
        )  # fmt: skip
        image = to_png(picture.pixels)
        records.append(ImageRecord(picture.name, *picture.pixels.shape, "unlabelled", image, instances=cells))
    write_folder(tmp_path / "pseudo", records, 3, "x")
    done = invoke("data", "inspect", str(tmp_path / "pseudo"), "--json", "--out", str(tmp_path / "p.png"))
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["images"] == 4 and {state: each["cells"] for state, each in found["states"].items()} == dict.fromkeys(
        ("accepted", "ignored", "rejected"), 4
    )
    assert found["states"]["rejected"]["reasons"] == {"too small": 4}
    assert found["states"]["accepted"]["score"]["50"] == pytest.approx(0.9)
    colours = {tuple(each) for each in np.unique(np.asarray(Image.open(tmp_path / "p.png")).reshape(-1, 3), axis=0)}
    assert len(colours & set(PALETTE)) == 2 and GREY in colours
    printed = invoke("data", "inspect", str(tmp_path / "pseudo"), "--no-picture").output
    assert "rejected: 4 cells (4 class0); score 0.20" in printed and "4 too small" in printed


def test_the_picture_shows_every_class_and_what_is_ignored(tmp_path: Path) -> None:
    done = invoke("data", "inspect", str(case(1)), "--out", str(tmp_path / "p.png"))
    assert done.exit_code == 0
    colours = {tuple(each) for each in np.unique(np.asarray(Image.open(tmp_path / "p.png")).reshape(-1, 3), axis=0)}
    assert GREY in colours and colours & set(PALETTE)


def test_shards_without_pixels_are_drawn_on_the_images_of_their_run(tmp_path: Path, pictures: list[Drawn]) -> None:
    config = load_config(None, ["run.name=r", f"run.root={tmp_path}", "data.classes=[round, long]"]).config
    paths = run.open_run(config)
    images, labels = [], []
    for picture in pictures:
        crops = [(cell, 0, 0) for cell in picture.cells]
        cells = masks.from_crops(*picture.pixels.shape, crops, state="predicted", class_id=[0, 1, 0], score=0.7)
        record = ImageRecord(picture.name, *picture.pixels.shape, "unlabelled", low=20.0, high=140.0)
        images.append(record.with_(image=to_png(picture.pixels)))
        labels.append(record.with_(instances=cells))
    write_folder(paths.split("unlabelled"), images, 3, "x")
    write_folder(paths.pseudo(1), labels, 3, "x")
    done = invoke("data", "inspect", str(paths.pseudo(1)), "--out", str(tmp_path / "p.png"))
    assert done.exit_code == 0 and "4 images without pixels of their own" in done.output, done.output
    assert "predicted: 12 cells (8 round, 4 long); score 0.70" in done.output
    assert f"picture: {tmp_path / 'p.png'}" in done.output and (tmp_path / "p.png").is_file()
