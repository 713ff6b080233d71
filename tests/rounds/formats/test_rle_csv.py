"""Kaggle's CSV files of run lengths: Sartorius' and DSB2018's, right and wrong, and several hundred mutations."""

from __future__ import annotations

import csv
import random
import tracemalloc
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.configs.schema import Config
from cellsemi.rounds.cells.rle import decode
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.ingest import read_record
from cellsemi.rounds.datasets.ingest_report import IngestReport
from cellsemi.rounds.datasets.open import Opened, open_data
from cellsemi.rounds.formats.base import parts_of
from cellsemi.rounds.formats.kaggle.reader import RleCsv, spread
from cellsemi.rounds.formats.shared.csv_file import CsvFile
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.schemas import ImageRecord

Mask = NDArray[np.bool_]
SARTORIUS = "id,annotation,width,height,cell_type,plate_time,sample_date,sample_id,elapsed_timedelta"
SIZE = (39, 53)  # height, width: an oblong image, as Sartorius' 520x704


def text_of(mask: Mask, order: Literal["row", "column"] = "row") -> str:
    """Run lengths written pixel by pixel, by nothing that is under test."""
    flat = (mask if order == "row" else mask.T).reshape(-1)
    padded = np.concatenate([[0], flat, [0]]).astype(int)
    edges = np.flatnonzero(np.diff(padded)) + 1
    return " ".join(f"{start} {end - start}" for start, end in zip(edges[::2], edges[1::2], strict=True))


def disc(y: int, x: int, radius: float, size: tuple[int, int] = SIZE) -> Mask:
    rows, columns = np.mgrid[: size[0], : size[1]]
    found: Mask = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    return found


def holed() -> Mask:
    return disc(25, 35, 7) & ~disc(25, 35, 2)


def broken() -> Mask:
    mask = disc(12, 40, 6)
    mask[11:13] = False
    return mask


CELLS: dict[str, list[Mask]] = {
    "0030fd0e6378": [disc(10, 12, 6), disc(14, 15, 6), holed()],  # the first two overlap
    "01ae5a43a2ab": [broken(), disc(30, 8, 9)],
    "026b3c2c4b32": [disc(20, 0, 8), disc(38, 52, 5)],  # at the edges
}
KINDS = {"0030fd0e6378": "shsy5y", "01ae5a43a2ab": "astro", "026b3c2c4b32": "shsy5y"}


def image(seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def put_images(root: Path, folder: str, *ids: str, size: tuple[int, int] = SIZE) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, image_id in enumerate(ids):
        (root / folder / f"{image_id}.png").write_bytes(to_png(image(seed, size)))


def sartorius_rows() -> list[str]:
    """One row per cell, the images in turn, so that the rows of none stand together."""
    rows = []
    for number in range(3):
        for image_id, cells in CELLS.items():
            if number < len(cells):
                sample = f"{KINDS[image_id]}[diff]_E10-4_{image_id[:2]}"
                rest = f"53,39,{KINDS[image_id]},11h30m00s,2020-11-01,{sample},0 days 11:30:00"
                rows.append(f"{image_id},{text_of(cells[number])},{rest}")
    return rows


def make(root: Path, lines: list[str] | None = None) -> Path:
    put_images(root, "train", *CELLS)
    rows = [SARTORIUS, *sartorius_rows()] if lines is None else lines
    (root / "train.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def config(root: Path, **options: Any) -> DataConfig:
    options = {"images": "train", "annotations": "train.csv", "classes": ("shsy5y", "astro"), **options}
    return DataConfig(source="rle-csv", root=str(root), **options)


def listed(root: Path, **options: Any) -> Opened:
    """The one part of the data set, without drawn splits."""
    (part,) = parts_of(config(root, **options))
    reader = RleCsv(part)
    return Opened(tuple(reader.items()), reader.classes, reader.notes)


def read_all(root: Path, **options: Any) -> dict[str, ImageRecord]:
    found = Config(data=config(root, **options))
    items = open_data(found).items
    records = [read_record(item, ClassNames(found.data), IngestReport()) for item in items]
    return {record.image_id: record for record in records}


def bitmaps(record: ImageRecord) -> list[Mask]:
    assert record.instances is not None
    return [decode(rle, record.height, record.width) for rle in record.instances.rle]


def same(found: list[Mask], expected: list[Mask]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


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
    assert found == list(csv.reader(StringIO("\n".join(lines))))
