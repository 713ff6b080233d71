"""Checks that image shards hold what they state: every file, image and mask, recomputed from its bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cellsemi.configs.errors import DataError, ImageError, RunError, UsageError
from cellsemi.rounds.cells.instances import STATES
from cellsemi.rounds.cells.rle import decode_counts
from cellsemi.rounds.datasets.splits import duplicates, leak_check, placed_table
from cellsemi.rounds.formats.shards import IMPORT_FILE, read_import
from cellsemi.rounds.store import files
from cellsemi.rounds.store.image_codec import MAX_PIXELS, decode_image, pixel_sha256
from cellsemi.rounds.store.run import SPLITS, RunPaths, read_config
from cellsemi.rounds.store.schemas import IMAGES, ImageRecord, check_version
from cellsemi.rounds.store.shards import shard_paths
from cellsemi.rounds.store.steps import altered, read_steps
from cellsemi.rounds.store.unaltered import MANIFEST, altered_shards

OnImage = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as stated. `row` counts the images of a file from 1, `cell` those of an image from 0."""

    place: str
    problem: str
    row: int | None = None
    cell: int | None = None

    def __str__(self) -> str:
        parts = [self.place]
        parts += [] if self.row is None else [f"row {self.row}"]
        parts += [] if self.cell is None else [f"cell {self.cell}"]
        return f"{', '.join(parts)}: {self.problem}"


@dataclass(slots=True)
class Checked:
    """What was checked, and every problem. `what` says in words what kind of thing it was."""

    what: str
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Stated:
    """What is known about shards before they are read: None where nothing says it."""

    folders: Mapping[str, Path]  # split -> folder; "" for one folder of any split
    classes: int | None
    commits: Mapping[str, Sequence[Mapping[str, Any]]]  # split -> [{file, sha256, rows, cells}]
    with_images: bool
    max_pixels: int = MAX_PIXELS


def check_shards(root: Path, on_image: OnImage) -> Checked:
    """Check the shards of an import, of a run, or of one folder; UsageError when there are none.

    `on_image` is called after each image with the number of them so far. Of a run, what its rounds wrote is compared
    with the sha256 that were noted.
    """
    stated = _stated(root)
    checked = Checked("image shards")
    counts: Counter[str] = Counter()
    kept: list[ImageRecord] = []
    for split, folder in stated.folders.items():
        checked.problems += _check_files(split, folder, stated.commits.get(split))
        for path in shard_paths(folder):
            counts["shards"] += 1
            for number, row in _rows(path, root, checked.problems):
                found = _check_row(row, split, stated)
                place = path.relative_to(root).as_posix()
                checked.problems += [Problem(place, text, number, cell) for cell, text in found]
                kept.append(_light(row))
                counts["images"] += 1
                counts["cells"] += len(row["instances"] or ())
                counts += _ignored(row)
                on_image(counts["images"])
    checked.problems += _between(kept)
    if RunPaths(root).config.is_file():
        counts["steps"] = sum(record.state == "done" for record in read_steps(RunPaths(root)))
        checked.problems += [Problem(*_split(root, line)) for line in altered(RunPaths(root))]
        for folder in sorted(path.parent for path in RunPaths(root).added.glob(f"*/{MANIFEST}")):
            checked.problems += [Problem(*_split(root, line)) for line in altered_shards(folder)]
    repeated = sum(duplicates(placed_table(kept)).values())
    checked.counts = {**counts, **({"images that repeat the pixels of another": repeated} if repeated else {})}
    return checked


def _split(root: Path, line: str) -> tuple[str, str]:
    """A line of `altered` as the place below the run, and the problem."""
    path, _, problem = line.partition(": ")
    return files.place(path).relative_to(root).as_posix(), problem


# --- what is stated -----------------------------------------------------------------------------------


def _stated(root: Path) -> Stated:
    if (root / IMPORT_FILE).is_file():
        content = read_import(root)
        folders = {split: root / split for split in SPLITS}
        return Stated(folders, len(content.classes), content.shards, True, content.max_pixels)
    run = RunPaths(root)
    if run.config.is_file():
        return _of_run(run, {split: run.split(split) for split in SPLITS})
    if RunPaths(root.parent).config.is_file() and any(shard_paths(root / split) for split in SPLITS):
        return _of_run(RunPaths(root.parent), {split: root / split for split in SPLITS})
    if not shard_paths(root):
        raise UsageError(f"{root}: nothing to check: no {IMPORT_FILE}, no run.yaml, no image shards (part-*.parquet)")
    return Stated({"": root}, None, _commits({"": root}), False)


def _of_run(run: RunPaths, folders: dict[str, Path]) -> Stated:
    data = read_config(run).data
    return Stated(folders, len(data.classes), _commits(folders), True, data.max_pixels)


def _commits(folders: Mapping[str, Path]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """The commit records of the stages that are finished."""
    done = {split: folder / MANIFEST for split, folder in folders.items() if (folder / MANIFEST).is_file()}
    return {split: files.read_json(path).get("shards", []) for split, path in done.items()}


# --- files --------------------------------------------------------------------------------------------


def _check_files(split: str, folder: Path, commits: Sequence[Mapping[str, Any]] | None) -> Iterator[Problem]:
    """Shards that are missing, foreign or altered, by the list that was written after them."""
    if commits is None:
        return
    listed = {commit["file"]: commit for commit in commits}
    there = {path.name: path for path in shard_paths(folder)}
    for name in sorted(listed.keys() | there.keys()):
        place = f"{split}/{name}" if split else name
        if name not in there:
            yield Problem(place, "listed, but there is no such file")
        elif name not in listed:
            yield Problem(place, "not listed: it was added later")
        elif files.sha256_bytes(there[name].read_bytes()) != listed[name]["sha256"]:
            yield Problem(place, "its sha256 is not the one that was noted: altered since it was written")


def _rows(path: Path, root: Path, problems: list[Problem]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(number from 1, values) of every row that can be read; what cannot is a problem."""
    place, number = path.relative_to(root).as_posix(), 0
    try:
        with pq.ParquetFile(files.local(path)) as file:
            check_version(file.schema_arrow, place)
            if not file.schema_arrow.equals(IMAGES, check_metadata=False):
                raise RunError(f"{place}: its columns are not those of image shards")
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group).to_pylist():
                    number += 1
                    yield number, row
    except RunError as error:
        problems.append(Problem(place, str(error).removeprefix(f"{place}: ")))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        problems.append(Problem(place, f"cannot be read after row {number} ({' '.join(str(error).split())})"))


# --- rows ---------------------------------------------------------------------------------------------

Found = Iterator[tuple[int | None, str]]  # (cell, problem)


def _check_row(row: Mapping[str, Any], split: str, stated: Stated) -> Found:
    height, width = row["height"], row["width"]
    missing = [name for name in ("image_id", "height", "width", "split", "source") if row[name] is None]
    if missing:
        yield None, f"no value in {', '.join(missing)}"
        return
    if height < 1 or width < 1:
        yield None, f"the size is {width}x{height}"
        return
    if split and row["split"] != split:
        yield None, f"its split is {row['split']!r}, the folder is {split!r}"
    if row["image"] is not None:
        yield from _check_image(row, stated.max_pixels)
    elif stated.with_images:
        yield None, "there is no image"
    for index, cell in enumerate(row["instances"] or ()):
        if cell is None or None in cell.values():
            yield index, "a value is missing"
            continue
        for problem in (*_check_values(cell, stated.classes), *_check_mask(cell, height, width)):
            yield index, problem


def _check_image(row: Mapping[str, Any], max_pixels: int) -> Found:
    try:
        image = decode_image(row["image"], row["source"], max_pixels)
    except ImageError as error:
        yield None, f"the image {error.problem}"
        return
    if image.shape[:2] != (row["height"], row["width"]):
        yield None, f"the image is {image.shape[1]}x{image.shape[0]}, stated is {row['width']}x{row['height']}"
    if image.dtype.name != row["dtype"]:
        yield None, f"the image is {image.dtype.name}, stated is {row['dtype'] or 'nothing'}"
    if pixel_sha256(image) != row["sha256"]:
        yield None, "the sha256 of the pixels is not the stated one"


def _check_values(cell: Mapping[str, Any], classes: int | None) -> Iterator[str]:
    if cell["class_id"] < 0 or (classes is not None and cell["class_id"] >= classes):
        yield f"class_id {cell['class_id']}, expected 0 to {classes - 1 if classes else '..'}"
    if cell["state"] not in STATES:
        yield f"state {cell['state']!r}, expected one of {', '.join(STATES)}"
    for name in ("score", "quality"):
        if not 0 <= cell[name] <= 1:  # refuses NaN, too
            yield f"{name} {cell[name]}, expected 0 to 1"
    if not (np.isfinite(cell["weight"]) and cell["weight"] >= 0):
        yield f"weight {cell['weight']}, expected a finite number from 0 on"


def _check_mask(cell: Mapping[str, Any], height: int, width: int) -> Iterator[str]:
    """What is wrong with a mask: its box and area are counted from its runs, without drawing it."""
    try:
        counts = decode_counts(cell["rle"])
    except ValueError as error:
        yield str(error)
        return
    if (counts < 0).any() or counts.sum() != height * width:
        yield f"the RLE covers {counts.sum()} pixels, the image has {height * width}"
        return
    area, box = measured(counts, height)
    if not area:
        yield "the mask holds no pixel"
    elif area != cell["area"]:
        yield f"the area is {area}, stated is {cell['area']}"
    if area and box != tuple(cell["bbox"]):
        yield f"the box is {box}, stated is {tuple(cell['bbox'])}"


def measured(counts: np.ndarray[Any, np.dtype[np.int64]], height: int) -> tuple[int, tuple[int, int, int, int]]:
    """Area and box (x0, y0, x1, y1, half-open) of column-major runs, background first."""
    ends = np.cumsum(counts)[1::2]
    lengths = counts[1::2]
    starts, ends = (ends - lengths)[lengths > 0], ends[lengths > 0] - 1  # the last pixel of each run
    if not len(starts):
        return 0, (0, 0, 0, 0)
    one_column = starts // height == ends // height
    top = int(np.where(one_column, starts % height, 0).min())
    bottom = int(np.where(one_column, ends % height, height - 1).max())
    return int(lengths.sum()), (int(starts[0]) // height, top, int(ends[-1]) // height + 1, bottom + 1)


# --- between rows -------------------------------------------------------------------------------------


def _ignored(row: Mapping[str, Any]) -> Counter[str]:
    """The ignored cells of a row by the reason, such as those of data.label_issues."""
    cells = [cell for cell in row["instances"] or () if cell is not None and cell["state"] == "ignored"]
    return Counter(" ".join(["cells ignored", *([f"({cell['reason']})"] if cell["reason"] else [])]) for cell in cells)


def _light(row: Mapping[str, Any]) -> ImageRecord:
    """What the checks between images need of one."""
    return ImageRecord(
        row["image_id"], row["height"], row["width"], row["split"], group=row["group"], sha256=row["sha256"]
    )


def _between(kept: Sequence[ImageRecord]) -> Iterator[Problem]:
    """Ids that stand twice, and splits that leak into each other."""
    places: dict[str, str] = {}
    for record in kept:
        if record.image_id in places:
            both = f"in {places[record.image_id]} and in {record.split}"
            yield Problem("all shards", f"the id {record.image_id!r} stands {both}")
        places.setdefault(record.image_id, record.split)
    try:
        leak_check(placed_table(record for record in kept if record.split in SPLITS))
    except DataError as error:
        yield Problem("all shards", str(error))
