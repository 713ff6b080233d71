"""Kaggle's CSV files of run lengths that are right: Sartorius', DSB2018's and submissions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from helpers.rle_csv_files import (
    CELLS,
    KINDS,
    SARTORIUS,
    SIZE,
    Mask,
    bitmaps,
    disc,
    listed,
    make,
    put_images,
    read_all,
    same,
    sartorius_rows,
    text_of,
)

from cellsemi.configs.errors import DataError
from cellsemi.rounds.formats.shared.csv_file import CsvFile
from cellsemi.rounds.store.image_codec import to_png

# --- Sartorius ------------------------------------------------------------------------------------------


def test_a_train_csv_is_read_cell_by_cell_with_class_and_sample(tmp_path: Path) -> None:
    records = read_all(make(tmp_path), one_class_per_image=True)
    assert list(records) == list(CELLS)
    for image_id, record in records.items():
        assert same(bitmaps(record), CELLS[image_id])
        assert record.instances is not None and set(record.instances.state) == {"human"}
        assert record.cell_type == KINDS[image_id]
        assert set(record.instances.class_id.tolist()) == {("shsy5y", "astro").index(KINDS[image_id])}
        assert record.group == f"{KINDS[image_id]}[diff]_E10-4_{image_id[:2]}"
        assert (record.height, record.width) == SIZE and record.source == f"train/{image_id}.png"


def test_the_notes_state_the_order_and_its_evidence(tmp_path: Path) -> None:
    opened = listed(make(tmp_path))
    assert opened.notes[0].startswith("train.csv: row-major: ") and "near the width (53)" in opened.notes[0]
    assert opened.classes == ("astro", "shsy5y")
    assert [item.place for item in opened.items] == ["train.csv, line 2", "train.csv, line 3", "train.csv, line 4"]


def test_unlabelled_images_with_brackets_in_their_names_and_a_pattern_for_their_class(tmp_path: Path) -> None:
    put_images(make(tmp_path), "semi", "shsy5y[diff]_E10-4_Vid_1080_0", "astro[cereb]_1")
    images = {"labelled": "train", "unlabelled": "semi"}
    records = read_all(tmp_path, images=images, class_pattern="semi/(shsy5y|astro)", class_column="cell_type")
    pool = {name: record.cell_type for name, record in records.items() if record.split == "unlabelled"}
    assert pool == {"shsy5y[diff]_E10-4_Vid_1080_0": "shsy5y", "astro[cereb]_1": "astro"}
    assert records["0030fd0e6378"].cell_type == "shsy5y"


def test_images_without_a_row_are_counted_and_not_used(tmp_path: Path) -> None:
    put_images(make(tmp_path), "train", "extra")
    opened = listed(tmp_path)
    assert "1 image in train without a row in train.csv" in opened.notes[1] and len(opened.items) == 3
    assert "data.images.unlabelled" in opened.notes[1]
    put_images(tmp_path, "train", "extra", "extra2")
    assert "2 images in train without" in listed(tmp_path).notes[1]


def test_every_cell_may_have_a_class_of_its_own(tmp_path: Path) -> None:
    rows = sartorius_rows()
    rows[3] = rows[3].replace(",shsy5y,", ",cort,")
    make(tmp_path, [SARTORIUS, *rows])
    records = read_all(tmp_path, classes=("shsy5y", "astro", "cort"))
    mixed = records["0030fd0e6378"]
    assert mixed.cell_type is None and mixed.instances is not None
    assert mixed.instances.class_id.tolist() == [0, 2, 0]
    assert records["01ae5a43a2ab"].cell_type == "astro"
    with pytest.raises(DataError, match=r"lines 2 and 5: .*'shsy5y' and 'cort'.*one_class_per_image"):
        listed(tmp_path, one_class_per_image=True)


def test_columns_that_the_config_names_go_before_the_usual_ones(tmp_path: Path) -> None:
    make(tmp_path)
    item = listed(tmp_path, class_column="sample_date", group_column="plate_time").items[0]
    assert (item.cell_type, item.group) == ("2020-11-01", "11h30m00s")
    with pytest.raises(DataError, match=r"train.csv, line 1: no column 'well', which data.group_column names"):
        listed(tmp_path, group_column="well")


def test_repeated_rows_are_kept(tmp_path: Path) -> None:
    rows = sartorius_rows()
    make(tmp_path, [SARTORIUS, *rows, rows[0]])
    first = read_all(tmp_path)["0030fd0e6378"]
    assert same(bitmaps(first), [*CELLS["0030fd0e6378"], CELLS["0030fd0e6378"][0]])


def test_pairs_out_of_order_are_sorted_and_counted(tmp_path: Path) -> None:
    rows = sartorius_rows()
    pairs = text_of(CELLS["0030fd0e6378"][0]).split()
    turned = " ".join(f"{start} {length}" for start, length in [*zip(pairs[::2], pairs[1::2], strict=True)][::-1])
    rows[0] = rows[0].replace(" ".join(pairs), turned)
    make(tmp_path, [SARTORIUS, *rows])
    assert "1 of 7 sampled masks have pairs that are not sorted" in listed(tmp_path).notes[1]
    assert same(bitmaps(read_all(tmp_path)["0030fd0e6378"]), CELLS["0030fd0e6378"])


def test_quotes_byte_order_mark_line_ends_and_blank_lines_do_not_matter(tmp_path: Path) -> None:
    rows = [SARTORIUS, *sartorius_rows()]
    quoted = [",".join(f'"{value}"' for value in row.split(",")) for row in rows]
    make(tmp_path)
    plain = {name: record.instances for name, record in read_all(tmp_path).items()}
    (tmp_path / "train.csv").write_bytes(("\r\n\r\n".join(quoted)).encode("utf-8-sig"))
    again = {name: record.instances for name, record in read_all(tmp_path).items()}
    assert [cells and cells.rle for cells in plain.values()] == [cells and cells.rle for cells in again.values()]
    assert listed(tmp_path).items[1].place == "train.csv, line 5"


# --- DSB2018 and submissions ------------------------------------------------------------------------------


def make_dsb(root: Path, size: tuple[int, int], order: Literal["row", "column"] = "column") -> dict[str, list[Mask]]:
    cells = {
        f"{i:064x}": [
            disc(int(y), int(x), 5, size) for y, x in np.random.default_rng(i).integers(4, min(size) - 4, (6, 2))
        ]
        for i in range(4)
    }
    (root / "train").mkdir(parents=True, exist_ok=True)
    for seed, (name, found) in enumerate(cells.items()):
        pixels = np.random.default_rng(seed).normal(30, 4, size)
        pixels[np.any(found, axis=0)] += 120
        (root / "train" / f"{name}.png").write_bytes(to_png(pixels.astype(np.uint8)))
    rows = [f"{name},{text_of(mask, order)}" for name, found in cells.items() for mask in found]
    (root / "train.csv").write_text("ImageId,EncodedPixels\n" + "\n".join(rows) + "\n")
    return cells


@pytest.mark.parametrize("size", [(40, 64), (64, 40), (48, 48)])
@pytest.mark.parametrize("order", ["row", "column"])
def test_a_dsb_csv_takes_the_size_from_the_images_and_the_order_from_the_masks(
    tmp_path: Path, size: tuple[int, int], order: Literal["row", "column"]
) -> None:
    cells = make_dsb(tmp_path, size, order)
    records = read_all(tmp_path, classes=("nucleus",))
    assert all(same(bitmaps(records[name]), found) for name, found in cells.items())
    assert f"{order}-major" in listed(tmp_path).notes[0]


def test_oblong_images_are_sampled_before_square_ones_when_the_file_tells_the_sizes(tmp_path: Path) -> None:
    put_images(tmp_path, "train", *(f"s{i:02d}" for i in range(60)), size=(48, 48))
    put_images(tmp_path, "train", "oblong")
    rows = [f"s{i:02d},{text_of(disc(20, 20, 6, (48, 48)))},48,48" for i in range(60)]
    rows[30:30] = [f"oblong,{text_of(disc(20, 20, 6))},53,39"]
    (tmp_path / "train.csv").write_text("id,annotation,width,height\n" + "\n".join(rows) + "\n")
    assert "row-major: 100% of 12 run steps are near the width (53)" in listed(tmp_path).notes[0]


def test_a_stated_order_that_the_masks_contradict_is_refused(tmp_path: Path) -> None:
    make_dsb(tmp_path, (40, 64))
    assert "as data.pixel_order says, confirmed" in listed(tmp_path, pixel_order="column").notes[0]
    with pytest.raises(DataError, match=r"train.csv: data.pixel_order is 'row', but the masks are column-major"):
        listed(tmp_path, pixel_order="row")


def test_an_empty_row_says_that_there_is_no_cell(tmp_path: Path) -> None:
    make_dsb(tmp_path, (40, 64))
    put_images(tmp_path, "train", "empty", size=(40, 64))
    with (tmp_path / "train.csv").open("a") as file:
        file.write("empty,\n")
    record = read_all(tmp_path, classes=("nucleus",))["empty"]
    assert record.instances is not None and len(record.instances) == 0


def test_a_file_without_any_cell_needs_no_order(tmp_path: Path) -> None:
    put_images(tmp_path, "train", "a", "b")
    (tmp_path / "train.csv").write_text("id,predicted\na,\nb,\n")
    opened = listed(tmp_path)
    assert len(opened.items) == 2 and not any("major" in note for note in opened.notes)


@pytest.mark.parametrize("mark", [";", "\t", ", "])
def test_columns_may_be_separated_as_spreadsheets_separate_them(tmp_path: Path, mark: str) -> None:
    rows = [["id", "annotation", "sample_id"], ["a", "1 2 9 3", "w1"]]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(mark.join(row) for row in rows), encoding="utf-8")
    found = [values for _, _, values in CsvFile(path, "a.csv").records()]
    assert found == rows
