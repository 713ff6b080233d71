"""Hands the images whose correction is worth most to a person, with the masks of the last round (`cellsemi review`).

DIR/README.txt      what to do
DIR/review.csv      the images, the most worth first, why, and the column `seen` that the person may fill
DIR/sheet-1.png ..  pictures of them, accepted and doubtful cells in two colours
DIR/masks/          images and masks in the format of the person's tool
DIR/given/          the same masks as shards, to tell later what was changed
DIR/review.json     which run and round they are of
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from cellsemi.configs.errors import RunError, UsageError
from cellsemi.configs.formats import entry_of
from cellsemi.configs.loading import config_hash
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.review.round_trip import Rereader
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.formats.registry import spec_of
from cellsemi.rounds.formats.shared.per_image import image_file
from cellsemi.rounds.pseudo_labels.training_set import with_images
from cellsemi.rounds.report.contact_sheet import Panel, contact_sheet
from cellsemi.rounds.review.added import batches, labelled_since
from cellsemi.rounds.review.choose import choose, look
from cellsemi.rounds.review.worth import Known, Worth, worth
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.folds import HUMAN_SPLIT, folds_of
from cellsemi.rounds.store.image_codec import decode_image
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.predictions import UNLABELLED
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.unaltered import MANIFEST

REVIEW_FILE, TABLE, MASKS, GIVEN = "review.json", "review.csv", "masks", "given"
COLUMNS = ("rank", "image_id", "seen", "expected_changes", "worth", "cells", "doubtful", "group", "why")
PER_SHEET = 6  # images on a picture
ACCEPTED, DOUBTFUL = 0, 1
STATES = ("accepted", "doubtful")

Count = Callable[[str, int, int | None], None]  # what, done, of


class ReviewRecord(OnDisk):
    """Which images were handed out: of which run, which round's labels, in which format, in the order of the table."""

    run: str
    pool: str  # fingerprint of the unlabelled images of the run
    round: int
    format: str
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One unlabelled image, with what its correction is worth."""

    record: ImageRecord  # without the image
    worth: Worth


@dataclass(frozen=True, slots=True)
class Wanted:
    """How many images, in which format, into which new folder."""

    top: int
    kind: str
    out: Path


@dataclass(frozen=True, slots=True)
class Offer:
    """What was handed out."""

    run: str
    round: int
    out: Path
    format: str
    pool: int
    chosen: tuple[Ranked, ...]
    sheets: int

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in table_rows(self.chosen)]
        return {
            "run": self.run,
            "round": self.round,
            "out": str(self.out),
            "format": self.format,
            "unlabelled_images": self.pool,
            "images": rows,
        }


def offer(paths: RunPaths, config: Config, wanted: Wanted, count: Count) -> Offer:
    """Choose unlabelled images and write them with their masks into a new folder.

    RunError when the run has no pseudo-labels yet, UsageError when the folder holds something.
    """
    if wanted.out.exists() and (not wanted.out.is_dir() or any(wanted.out.iterdir())):
        raise UsageError(f"{wanted.out}: exists and is not an empty folder; --out names a new one")
    round = last_labelled_round(paths, config)
    ranked, looks = _rank(paths, config, round, count)
    groups = [each.record.group for each in ranked]
    places = choose([each.worth.total for each in ranked], looks, groups, wanted.top)
    chosen = [ranked[place] for place in places]
    if not chosen:
        raise RunError(f"{paths.root}: no image is left whose labels are expected to change")
    records = _records(paths, config, round, chosen)
    with files.atomic_folder(wanted.out) as folder:
        _write(folder, config, wanted.kind, records)
        sheets = _draw(folder, records)
        files.write_text(folder / TABLE, _csv(chosen))
        files.write_text(folder / "README.txt", _readme(paths, wanted.kind))
        ids = tuple(each.record.image_id for each in chosen)
        ReviewRecord(run=paths.name, pool=pool_fingerprint(paths), round=round, format=wanted.kind, images=ids).write(
            folder / REVIEW_FILE
        )
    return Offer(paths.name, round, wanted.out, wanted.kind, len(ranked), tuple(chosen), sheets)


def last_labelled_round(paths: RunPaths, config: Config) -> int:
    """The last round that has filtered pseudo-labels; RunError when there is none."""
    rounds = labelled_rounds(paths, config)
    if not rounds:
        raise RunError(
            f"{paths.root}: no round has labelled the unlabelled images yet, so there is nothing to correct; "
            "`cellsemi round --n 1` does it"
        )
    return rounds[-1]


def labelled_rounds(paths: RunPaths, config: Config) -> list[int]:
    """The rounds that have filtered pseudo-labels, finished or not."""
    suffix = folds_of(config)[0].suffix
    return [number for number in range(1, 1000) if (paths.pseudo(number, suffix) / MANIFEST).is_file()]


def pool_fingerprint(paths: RunPaths) -> str:
    """What tells the unlabelled images of a run from those of another."""
    return files.sha256_json(shards.read_columns(paths.split(UNLABELLED), ["image_id", "sha256"]))


# --- ranking ------------------------------------------------------------------------------------------


def _rank(paths: RunPaths, config: Config, round: int, count: Count) -> tuple[list[Ranked], np.ndarray]:
    """Every unlabelled image that no person has labelled since, its worth and what it looks like."""
    known = known_labels(paths, config)
    done = labelled_since(batches(paths), paths.split(UNLABELLED))
    found, looks = [], []
    for number, record in enumerate(_labelled(paths, config, round), start=1):
        if record.instances is not None and record.image is not None and record.image_id not in done:
            pixels = decode_image(record.image, record.image_id, record.height * record.width)
            looks.append(look(pixels, record.instances))
            value = worth(record.instances, record.group, known, config.filter.ignore_dilation_px)
            found.append(Ranked(record.with_(image=None), value))
        count("rank images", number, None)
    return found, np.array(looks).reshape(len(found), -1)


def _labelled(paths: RunPaths, config: Config, round: int) -> Iterator[ImageRecord]:
    """The unlabelled images with the pseudo-labels of a round; with folds, those of the first one."""
    labels = shards.read_folder(paths.pseudo(round, folds_of(config)[0].suffix))
    return with_images(labels, shards.read_folder(paths.split(UNLABELLED)))


def known_labels(paths: RunPaths, config: Config) -> Known:
    """What the human labels of the run cover, those of val and those added since among them."""
    areas: dict[int, list[int]] = defaultdict(list)
    groups = []
    for folder in (paths.split(HUMAN_SPLIT), paths.split("val"), *batches(paths)):
        for record in shards.read_folder(folder):
            groups.append(record.group)
            if record.instances is not None:
                human = record.instances.in_state("human")
                for class_id, area in zip(human.class_id.tolist(), human.area.tolist(), strict=True):
                    areas[class_id].append(area)
    return Known.of(areas, groups, len(config.data.classes))


# --- the folder ---------------------------------------------------------------------------------------


def _records(paths: RunPaths, config: Config, round: int, chosen: Sequence[Ranked]) -> list[ImageRecord]:
    """The chosen images with their pseudo-labels, in their order."""
    order = {each.record.image_id: place for place, each in enumerate(chosen)}
    found = [record for record in _labelled(paths, config, round) if record.image_id in order]
    return sorted(found, key=lambda record: order[record.image_id])


def _write(folder: Path, config: Config, kind: str, records: Sequence[ImageRecord]) -> None:
    """The masks and the images, and what was given as it reads back."""
    shown = [_shown(record) for record in records]
    target = folder / MASKS
    target.mkdir()
    classes = config.data.classes
    spec = spec_of(kind)
    assert spec.writer is not None, f"{kind} is written"
    spec.writer(shown, masks_at(folder, kind), classes)
    if not spec.writes_folder:
        for record in shown:
            assert record.image is not None
            files.write_bytes(target / record.source, record.image)
    reader = Rereader(masks_at(folder, kind), config.data, [record.image_id for record in records])
    given = [record.with_(image=None, instances=_read_back(reader, record)) for record in shown]
    (folder / GIVEN).mkdir()
    size = shards.images_per_shard(config.data.shard_images, len(given), workers=1)
    shards.write_folder(folder / GIVEN, given, size, config_hash(config))


def _read_back(reader: Rereader, record: ImageRecord) -> Instances | None:
    """The masks of a record as the format keeps them: some give each pixel to one cell."""
    assert record.instances is not None
    return reader.cells(record, record.instances)


def _shown(record: ImageRecord) -> ImageRecord:
    """A record as the person gets it: accepted and doubtful cells alike, as cells that can be edited."""
    assert record.instances is not None
    cells = record.instances.in_state("accepted", "ignored").with_(state="human", reason="", background=None)
    return record.with_(instances=cells, source=image_file(record))


def masks_at(folder: Path, kind: str) -> Path:
    """Where the masks of a review lie: a folder, or the one file of a format that has one."""
    return folder / MASKS / entry_of(kind).file


def _draw(folder: Path, records: Sequence[ImageRecord]) -> int:
    sheets = 0
    for first in range(0, len(records), PER_SHEET):
        panels = [_panel(record) for record in records[first : first + PER_SHEET]]
        sheets += 1
        files.write_bytes(folder / f"sheet-{sheets}.png", contact_sheet(panels))
    return sheets


def _panel(record: ImageRecord) -> Panel:
    assert record.instances is not None
    cells = record.instances.in_state("accepted", "ignored")
    kinds = [ACCEPTED if state == "accepted" else DOUBTFUL for state in cells.state]
    return Panel(record, cells.with_(class_id=kinds, state="human"), STATES, UNLABELLED)


def table_rows(chosen: Sequence[Ranked]) -> list[tuple[object, ...]]:
    """The rows of the table, in the order of COLUMNS."""
    return [
        (
            rank,
            each.record.image_id,
            "",
            round(each.worth.changes, 1),
            round(each.worth.total, 1),
            _count(each.record.instances, "accepted"),
            _count(each.record.instances, "ignored"),
            each.record.group or "",
            each.worth.reason(),
        )
        for rank, each in enumerate(chosen, start=1)
    ]


def _count(cells: Instances | None, state: str) -> int:
    return 0 if cells is None else cells.state.count(state)


def _csv(chosen: Sequence[Ranked]) -> str:
    buffer = StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(table_rows(chosen))
    return buffer.getvalue()


def _file(kind: str) -> str:
    name = entry_of(kind).file
    return f"\n   Save what your tool exports as masks/{name}." if name else ""


def _readme(paths: RunPaths, kind: str) -> str:
    return f"""Images of the run {paths.name} whose labels are worth a correction, the most worth first.
review.csv says why, the sheets show them.

1. Open the images in masks/ with your tool ({kind}), correct the masks and save them in place.
   Add cells that are missing, delete what is no cell, redraw wrong outlines. You need not do all images.{_file(kind)}
2. An image that you changed counts as corrected whole: what you left without a mask is background.
   The column `seen` of review.csv says otherwise:
     yes    the image is right as it is, changed or not
     part   only the places that you changed were looked at
     no     do not use the image, though it was changed
   In QuPath you can also outline what you looked at, as an annotation of the class Region*.
3. cellsemi review {paths.name} --take THIS_FOLDER
   Corrected images are human labels from the next round on; all others stay as they were.
"""
