"""Reads a data source into image shards: listed whole, read shard by shard, with unusable images put aside and counted.

The list is made first, in one place, since it says which image stands in which shard. The shards are then read by
whoever `run` gives them to (`read_shards.ReadJob`), and what only all images together show, such as equal pixels in two
splits, is found at the end, from a few columns of what was written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cellsemi.configs.errors import DataError
from cellsemi.configs.schema import Config
from cellsemi.rounds.datasets.ignore_label_issues import LabelIssueTable, open_label_issues
from cellsemi.rounds.datasets.ingest_report import IngestReport, OnImage, Quarantined
from cellsemi.rounds.datasets.open import Opened, open_data
from cellsemi.rounds.datasets.read_shards import ANNOTATED, LIST_FILE, ReadJob
from cellsemi.rounds.datasets.splits import PLACED, draw_labelled, duplicates, leak_check
from cellsemi.rounds.formats.base import Item, root_of
from cellsemi.rounds.store import files
from cellsemi.rounds.store.manifest import COMMITS, Commit, read_commits
from cellsemi.rounds.store.run import QUARANTINE_FILE, SPLITS
from cellsemi.rounds.store.schemas import LISTED, QUARANTINE
from cellsemi.rounds.store.shards import images_per_shard, iter_columns, shard_paths, write_rows

NEEDED = ("labelled", "val", "test")  # a run without unlabelled images is a supervised baseline
WITHOUT_TRAINING = ("val", "test")  # of a run whose teachers are not trained
READ_ORDER = (*ANNOTATED, "unlabelled")  # those last: they are compared with the others


SHOWN_PROBLEMS = 5  # problems that a message names; all of them stand in the quarantine table

OnShard = Callable[[int, dict[str, Any]], None]
Run = Callable[[ReadJob, Sequence[int], OnShard], None]  # carries out items of a job, and hands over the commit of each


def run_here(job: ReadJob, items: Sequence[int], on_done: OnShard) -> None:
    """Read one shard after another in this process."""
    worker = job.start()
    for item in items:
        on_done(item, worker.run(item))


def ingest(
    config: Config,
    out: Path,
    config_hash: str,
    on_image: OnImage,
    needed: Sequence[str] = NEEDED,
    workers: int = 1,
    run: Run = run_here,
    fingerprint: str | None = None,
) -> IngestReport:
    """Write `out/SPLIT/part-00000.parquet` .. and `out/quarantine.parquet`.

    Images come in the order of their ids, a shard in memory at a time, so the same data and config give
    the same bytes, whoever reads the shards. `on_image(split, done, of)` is called after each shard.
    An annotated image without a cell is kept and counted as empty. Labelled images that `data.labelled_limit` does
    not draw are left out of the run and counted, so that runs with different limits have the same unlabelled images;
    or they become unlabelled, their labels hidden, where `data.limit_rest` says so, but for those with the pixels of an
    image that is drawn: they are left out and counted. One that is drawn
    and cannot be used is not replaced, so that the draw depends on ids, classes and seed alone. With
    `data.shard_images: auto` each split is divided for so many `workers`; a shard has fewer images where some of its
    own are left out.

    With a `fingerprint` of what is read, shards that an earlier call with the same one has committed are kept, as long
    as the data set lists the same images, and the files of the annotated ones are those of then. Without, shards of an
    earlier try are removed.

    Raises DataError when more than `data.max_quarantined` of the images cannot be used, when a split of
    `needed` has no image or no cell, when the splits leak into each other, or when a row of `data.label_issues`
    does not fit. Nothing is kept then: what was wrong may be put right in images that were read.
    """
    started = time.monotonic()
    issues = open_label_issues(config.data)
    opened = open_data(config)
    if issues is not None:
        issues.check_listed(opened.items)
    listing = _list(opened, config, workers)
    opened = replace(opened, items=(), pool={})  # what loads every image is the largest part of a large pool
    report = IngestReport(
        labelled_not_drawn=listing.not_drawn, notes=list(opened.notes), left_out=dict(opened.left_out)
    )
    job = ReadJob(config, str(out), _prepare(out, opened, config, listing, fingerprint), config_hash, opened.drawn)
    try:
        commits = _read(job, listing, on_image, run)
        _gather(report, listing, commits, issues)
        write_rows(out / QUARANTINE_FILE, [asdict(row) for row in report.quarantined], QUARANTINE, config_hash)
        if issues is not None:
            report.label_issues = issues.close(row.image_id for row in report.quarantined)
            report.notes += report.label_issues.sentences()
        _check(report, listing.images, config, needed)
        images = _placed(out)
        leak_check(images)
        report.duplicates |= duplicates(images)
    except DataError:
        files.remove_folder(out / COMMITS, ignore_errors=True)
        raise
    if fingerprint is None:
        files.remove_folder(out / COMMITS)
    report.seconds = time.monotonic() - started
    return report


def _placed(out: Path) -> pa.Table:
    """What was read, as `leak_check` takes it."""
    schema = pa.schema([(name, pa.string()) for name in PLACED])
    tables = (table for split in SPLITS for table in iter_columns(out / split, PLACED))
    found = [table.select(list(PLACED)).replace_schema_metadata(None) for table in tables]
    return pa.concat_tables([schema.empty_table(), *found])


# --- the list -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listing:
    """Every image that is to be read: a table for each shard, those of one split after another."""

    shards: tuple[pa.Table, ...]
    not_drawn: int

    @property
    def images(self) -> int:
        """How many images are listed."""
        return sum(map(len, self.shards))

    def split_of(self, item: int) -> str:
        """The split of a shard."""
        return str(self.shards[item]["split"][0])

    def of_split(self, split: str) -> list[int]:
        """The shards of a split."""
        return [item for item in range(len(self.shards)) if self.split_of(item) == split]

    def to_parquet(self) -> bytes:
        """The table that the workers read: a row group for each shard; equal lists give equal bytes."""
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, LISTED, compression="zstd") as writer:
            for table in self.shards:
                writer.write_table(table, row_group_size=len(table))
        content: bytes = sink.getvalue().to_pybytes()
        return content


def _list(opened: Opened, config: Config, workers: int) -> Listing:
    """The images in the order of their ids, cut into shards."""
    items, rest = _draw(opened.items, config)
    tables: list[pa.Table] = []
    for split in READ_ORDER:
        chosen = sorted((item for item in items if item.split == split), key=lambda item: item.image_id)
        size = images_per_shard(config.data.shard_images, len(chosen), workers)
        for number, first in enumerate(range(0, len(chosen), size)):
            rows = [_row(item, number, opened, rest) for item in chosen[first : first + size]]
            tables.append(pa.Table.from_pylist(rows, schema=LISTED))
    return Listing(tuple(tables), len(rest))


def _row(item: Item, shard: int, opened: Opened, rest: frozenset[str]) -> dict[str, Any]:
    return {
        "shard": shard,
        "image_id": item.image_id,
        "split": item.split,
        "place": item.place,
        "cell_type": item.cell_type,
        "group": item.group,
        "path": opened.pool.get(item.image_id),
        "hidden": item.image_id in rest,
    }


def _draw(items: Sequence[Item], config: Config) -> tuple[list[Item], frozenset[str]]:
    """The items of the run, and the ids of the labelled ones that were not drawn; the classes take turns."""
    data = config.data
    labelled = [item for item in items if item.split == "labelled"]
    classes = [item.cell_type for item in labelled]
    drawn = set(draw_labelled([item.image_id for item in labelled], data.labelled_limit, config.run.seed, classes))
    rest = [item for item in labelled if item.image_id not in drawn]
    kept = [item for item in items if item.split != "labelled" or item.image_id in drawn]
    if data.limit_rest == "unlabelled":
        kept += [replace(item, split="unlabelled") for item in rest]
    return kept, frozenset(item.image_id for item in rest)


# --- the shards ---------------------------------------------------------------------------------------


def _prepare(out: Path, opened: Opened, config: Config, listing: Listing, fingerprint: str | None) -> str:
    """Write the list, and remove what is not of it; returns what its commits are known by."""
    content = listing.to_parquet()
    stamp = files.sha256_json([fingerprint, files.sha256_bytes(content), _stamps(opened, config)])
    if fingerprint is None or not read_commits(out, Commit, lambda _: stamp):
        files.remove_folder(out / COMMITS, ignore_errors=True)
        for path in (path for split in SPLITS for path in shard_paths(out / split)):
            path.unlink()
    files.write_bytes(out / COMMITS / LIST_FILE, content)
    return stamp


def _stamps(opened: Opened, config: Config) -> list[tuple[str, int, int]]:
    """Size and time of change of the files of the annotated images: another one, and all are read again."""
    if not opened.readers:
        return []
    root = root_of(config.data)
    paths = sorted({path for reader in opened.readers for path, why in reader.files().items() if not why})
    found = ((path, (root / path).stat()) for path in paths if (root / path).is_file())
    return [(path, about.st_size, about.st_mtime_ns) for path, about in found]


def _read(job: ReadJob, listing: Listing, on_image: OnImage, run: Run) -> dict[int, Commit]:
    """Read the shards that are not committed, the annotated ones first; returns the commits of all."""
    commits = read_commits(files.place(job.out), Commit, lambda _: job.fingerprint)
    of, done = dict.fromkeys(READ_ORDER, 0), dict.fromkeys(READ_ORDER, 0)
    for item, table in enumerate(listing.shards):
        of[listing.split_of(item)] += len(table)

    def count(item: int) -> None:
        split = listing.split_of(item)
        done[split] += len(listing.shards[item])
        on_image(split, done[split], of[split])

    def on_done(item: int, record: dict[str, Any]) -> None:
        commits[item] = Commit.model_validate(record)
        count(item)

    for split in READ_ORDER:
        items = listing.of_split(split)
        for item in items:
            if item in commits:
                count(item)
        if todo := [item for item in items if item not in commits]:
            run(job, todo, on_done)
    return commits


def _gather(
    report: IngestReport, listing: Listing, commits: Mapping[int, Commit], issues: LabelIssueTable | None
) -> None:
    """Add up what was counted in the shards."""
    for item in sorted(commits):
        commit, split = commits[item], listing.split_of(item)
        part: dict[str, Any] = dict(commit.ingested or {})
        counted = part.pop("label_issues", None)
        report.add(part)
        report.shards[split].append(commit.shard())
        if issues is not None and split != "unlabelled":
            bad = {row["image_id"] for row in part.get("quarantined", ())}
            ids = listing.shards[item]["image_id"].to_pylist()
            issues.add(counted, (image_id for image_id in ids if image_id not in bad))
    report.quarantined.sort(key=lambda row: SPLITS.index(row.split))


# --- whether it can be used ---------------------------------------------------------------------------


def _check(report: IngestReport, of: int, config: Config, needed: Sequence[str]) -> None:
    """DataError when too little of the data can be used."""
    bad = len(report.quarantined)
    allowed = config.data.max_quarantined
    if bad > allowed * of:
        raise DataError(
            f"{bad} of {of} images cannot be used, data.max_quarantined allows {allowed:.0%}"
            f"{_problems(report.quarantined)}"
        )
    if report.partly["labelled"] == report.images["labelled"] > 0 == report.background_px["labelled"]:
        raise DataError(
            f"no pixel of the {report.images['labelled']} labelled images is background: cells alone do not teach "
            "where none is; outline some background (data.partial.background) or set data.partial.ring_px"
        )
    for split in needed:
        mine = [row for row in report.quarantined if row.split == split]
        if not report.images[split]:
            alone = "; without training images, models that are trained need `first_round: 1`" * (split == "labelled")
            raise DataError(f"there is no usable image in the split {split!r}{alone}{_problems(mine)}")
        if not report.cells[split]:
            raise DataError(
                f"none of the {report.images[split]} images of the split {split!r} has a cell: "
                f"its annotations are all empty; check data.masks or data.annotations{_problems(mine)}"
            )


def _problems(quarantined: Sequence[Quarantined]) -> str:
    """The first few problems, a line each, and how many more there are."""
    lines = [f"\n  {row.path}: {row.problem}" for row in quarantined[:SHOWN_PROBLEMS]]
    if len(quarantined) > SHOWN_PROBLEMS:
        lines.append(f"\n  and {len(quarantined) - SHOWN_PROBLEMS} more, all of them in {QUARANTINE_FILE}")
    return "".join(lines)
