"""Kaggle's CSV files of run lengths that are wrong, and several hundred mutations of a right one."""

from __future__ import annotations

import csv
import random
import tracemalloc
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from helpers.rle_csv_files import (
    CELLS,
    SARTORIUS,
    bitmaps,
    image,
    listed,
    make,
    put_images,
    same,
    sartorius_rows,
    text_of,
)

from cellsemi.configs.errors import DataError, ImageError
from cellsemi.rounds.formats.kaggle.reader import spread
from cellsemi.rounds.formats.shared.csv_file import CsvFile
from cellsemi.rounds.store.image_codec import to_png

# --- what is wrong with the file ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "line 1: no column for the image, expected one of id, ImageId, image_id; it has: nothing"),
        ("name,rle\n", "no column for the image"),
        ("id,mask\n", "no column for the run lengths, expected one of annotation, EncodedPixels, predicted, rle"),
        ("id,rle,predicted\n", "more than one column for the run lengths"),
        ("id,rle,id\n", "a column name stands twice"),
        ("id,rle,width\n", "one of the columns width and height without the other"),
        ("id,rle\n", "there are no rows"),
        ("id,rle\na\n", "line 2: 1 values, expected 2"),
        ("id,rle\na,1 1,3\n", "line 2: 3 values, expected 2"),
        ("id,rle\n\n../../x,1 1\n", r"line 3: id '../../x' holds '/'"),
        ("id,rle\n,1 1\n", "line 2: the id is empty"),
        ("id,rle\na\0,1 1\n", "line 2: id"),
        ("id,rle\na,1 1\na,\n", "lines 2 and 3: image 'a' has a row without run lengths beside another"),
        ("id,rle\na,\na,\n", "lines 2 and 3: image 'a' has a row without"),
        ('id,rle\n"a,1 1\n', "line 2: not valid CSV"),
        ('id,rle\n"a\nb",1 1\n', "line 2: not valid CSV with a record in each line"),
        ("id,rle,width,height\na,1 1,1e2,9\n", "line 2: the width is '1e2', expected a whole number"),
        ("id,rle,width,height\na,1 1,5,0\n", "line 2: the height is '0'"),
        ("id,rle,width,height\na,1 1,5,-3\n", "line 2: the height is '-3'"),
        ("id,rle,width,height\na,1 1,5,\n", "line 2: the height is ''"),
        (f"id,rle,width,height\na,1 1,5,{10**30}\n", "line 2: the height is '1000"),
        ("id,rle,width,height\na,1 1,5,4\na,3 1,4,5\n", r"lines 2 and 3: image 'a' has two sizes .*\(4, 5\) and"),
        ("id,rle,sample_id\na,1 1,x\na,3 1,y\n", "lines 2 and 3: image 'a' has two groups, 'x' and 'y'"),
        ("id,rle,cell_type\na,1 1,x\na,3 1,\n", "lines 2 and 3: image 'a' has the classes 'x' and ''; give every row"),
        ("id,rle\na,1 1\na.png,2 1\n", "the ids of lines 2 and 3 are both train/a.png"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_its_line(tmp_path: Path, content: str, words: str) -> None:
    put_images(tmp_path, "train", "a")
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        listed(tmp_path, pixel_order="row")
    assert "train.csv" in str(caught.value) and not isinstance(caught.value, ImageError)


def test_missing_files_other_encodings_and_endless_lines_are_refused(tmp_path: Path) -> None:
    put_images(tmp_path, "train", "a")
    with pytest.raises(DataError, match=r"data\.annotations names the CSV"):
        listed(tmp_path)
    path = tmp_path / "train.csv"
    path.write_bytes("id,rle\né,1 1\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        listed(tmp_path)
    path.write_bytes("id,rle\na,1 1\n".encode("utf-16"))
    with pytest.raises(DataError, match="line 1: not UTF-8"):
        listed(tmp_path)
    path.write_text("id,rle\na," + "1 1 " * 600_000)
    with pytest.raises(DataError, match="line 2: longer than 2,097,152 bytes"):
        listed(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        listed(tmp_path)


# --- what is wrong with one image -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5 3 9", "expected pairs"),
        ("5 3 -9 1", "pair 2: '-9' is not a whole number"),
        ("5 3 7 2", "pairs 1 and 2 overlap"),
        ("2066 3", "ends at pixel 2068, the image has 2067"),
        ("NaN", "pair 1: 'NaN'"),
    ],
)
def test_a_wrong_mask_makes_its_image_unusable_and_no_other(tmp_path: Path, text: str, words: str) -> None:
    rows = sartorius_rows()
    rows[1] = rows[1].replace(text_of(CELLS["01ae5a43a2ab"][0]), text)
    make(tmp_path, [SARTORIUS, *rows])
    items = listed(tmp_path).items
    with pytest.raises(ImageError, match=words) as caught:
        items[1].load()
    assert caught.value.path == "train.csv, line 3" and caught.value.remedy
    assert same(bitmaps(items[0].load().record), CELLS["0030fd0e6378"])


def test_a_missing_image_and_one_of_another_size_are_image_errors(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "train" / "0030fd0e6378.png").unlink()
    (tmp_path / "train" / "01ae5a43a2ab.png").write_bytes(to_png(image(1, (53, 39))))
    first, second, third = listed(tmp_path).items
    with pytest.raises(ImageError, match="train/0030fd0e6378: there is no such file"):
        first.load()
    with pytest.raises(ImageError, match=r"train.csv, line 3: the size in the row is 53x39, the image 39x53"):
        second.load()
    assert third.load().record.height == 39


def test_a_file_that_changes_after_it_was_listed_is_noticed(tmp_path: Path) -> None:
    make(tmp_path)
    items = listed(tmp_path).items
    make(tmp_path, [SARTORIUS, *sartorius_rows()[1:]])
    with pytest.raises(ImageError, match="the file has changed"):
        items[0].load()


def test_no_mask_that_can_be_read_is_a_data_error_with_the_first_problem(tmp_path: Path) -> None:
    put_images(tmp_path, "train", "a")
    (tmp_path / "train.csv").write_text("id,rle\na,1 1 1\n")
    with pytest.raises(DataError, match=r"no sampled mask can be read.*train.csv, line 2: 3 numbers"):
        listed(tmp_path)
    (item,) = listed(tmp_path, pixel_order="row").items
    with pytest.raises(ImageError, match=r"train.csv, line 2: 3 numbers"):
        item.load()


@pytest.mark.parametrize(("width", "height"), [(1, 99_999_999), (99_999_999, 1), (999_999_999, 999_999_999)])
def test_a_size_that_is_a_lie_costs_no_memory(tmp_path: Path, width: int, height: int) -> None:
    make(tmp_path)
    (tmp_path / "train.csv").write_text(f"id,rle,width,height\n0030fd0e6378,1 99999999,{width},{height}\n")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"no sampled mask can be read.*(not sampled|max_pixels)"):
            listed(tmp_path)
        (item,) = listed(tmp_path, pixel_order="row").items
        with pytest.raises(ImageError, match=f"the size in the row is {width}x{height}, the image 53x39"):
            item.load()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_a_sample_is_spread_over_all() -> None:
    assert spread(range(10), 20) == list(range(10)) and spread(range(100), 4) == [0, 25, 50, 75]
    assert spread([], 3) == []


# --- mutations ------------------------------------------------------------------------------------------

BAD_VALUES = [
    "", " ", "-1 4", "0 0", "NaN", "nan", "1e5 2", "1.5 2", f"{10**30} 1", f"1 {10**30}", "999999999 999999999",
    "1 1 1 1", "5 2 6 1", "9 1 3 1", "../../x", "/etc/passwd", "..", "\0", "1\0 2", '"', '""', 'a"b', "é", "1;2",
    "1 2,3 4", "\t1 2", "53", "1", "0", "-5", "99999", "1e2", "inf", "1 2067", "1 2068", "2067 1", "2068 1",
    "1 " * 999, "7 " * 3000 + "8", str(2**63), str(2**64 + 1) + " 3", "١ ٢", "1 2\r3 4", "True", "0x10 2", "1_0 2",
    "+1 2", "x" * 200_000, "1 1 " * 50_000,
]  # fmt: skip


def mutations(rows: list[str]) -> Iterator[bytes]:
    """Changed copies of a train.csv: each value replaced, the file cut, lines swapped, bytes flipped."""
    draw = random.Random(0)
    whole = "\n".join(rows).encode()
    for bad in BAD_VALUES:
        for column in draw.sample(range(9), 3):
            number = draw.randrange(1, len(rows))
            values = rows[number].split(",")
            values[column] = bad
            yield "\n".join([*rows[:number], ",".join(values), *rows[number + 1 :]]).encode()
    for _ in range(40):
        yield whole[: draw.randrange(len(whole))]
    for _ in range(40):
        flipped = bytearray(whole)
        for _ in range(draw.randrange(1, 6)):
            flipped[draw.randrange(len(flipped))] = draw.randrange(256)
        yield bytes(flipped)
    for column in range(9):
        yield "\n".join(",".join(v for i, v in enumerate(row.split(",")) if i != column) for row in rows).encode()
    for encoding in ("utf-16", "utf-32", "utf-8-sig", "cp037"):
        yield whole.decode().encode(encoding)
    yield whole.replace(b"\n", b"\r")
    yield whole.replace(b",", b";")
    yield b"\0" * 4000
    yield whole + b"\n" + b"9" * 3_000_000
    yield whole + b'\n"' + b"1 2 " * 200_000 + b'",x'


def test_every_mutation_is_read_or_refused_in_words_and_within_memory(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "train.csv"
    read = refused = put_aside = 0
    listed(tmp_path)
    for content in mutations([SARTORIUS, *sartorius_rows()]):
        path.write_bytes(content)
        tracemalloc.start()
        try:
            for item in listed(tmp_path).items:
                try:
                    loaded = item.load()
                    read += 1
                    assert loaded.record.instances is not None
                except ImageError as error:
                    assert "train.csv, line" in str(error) or "train/" in str(error)
                    put_aside += 1
        except DataError as error:
            assert "train.csv" in str(error) and len(str(error)) < 2000
            refused += 1
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < max(2 * len(content), 8 * 2**20), content[:200]
    assert refused > 60 and put_aside > 30 and read > 200


def test_a_long_file_is_not_held_in_memory(tmp_path: Path) -> None:
    rows = sartorius_rows()
    make(tmp_path, [SARTORIUS, *(rows * 1500)])
    size = (tmp_path / "train.csv").stat().st_size
    listed(tmp_path)  # what is imported on the way is not counted
    tracemalloc.start()
    try:
        items = listed(tmp_path).items
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(items) == 3 and size > 1_500_000 and peak < size / 2


def test_rows_are_those_of_the_csv_module(tmp_path: Path) -> None:
    """The shortcut for lines without quotes agrees with the csv module."""
    lines = ["id,rle", "a b,1 2", "'a',1", " x ,", "é,3 4"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = [values for _, _, values in CsvFile(tmp_path / "t.csv", "t.csv").records()]
    assert found == [[value.strip() for value in row] for row in csv.reader(StringIO("\n".join(lines)))]
