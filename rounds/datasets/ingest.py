"""Reads a data source into image shards: streamed, checked, with unusable images put aside and counted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.configs.schema import Config
from cellsemi.rounds.cells.instance_map import draw_instance_map
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.cleaning import clean
from cellsemi.rounds.datasets.ignore_label_issues import LabelIssueTable, open_label_issues
from cellsemi.rounds.datasets.ingest_report import IngestReport, OnImage, Quarantined, is_crowded
from cellsemi.rounds.datasets.open import Opened, open_data
from cellsemi.rounds.datasets.refuse_regions import check_no_regions
from cellsemi.rounds.datasets.splits import draw_labelled, duplicates, leak_check
from cellsemi.rounds.formats.base import Item, Loaded
from cellsemi.rounds.formats.shared.partly_labelled import not_labelled
from cellsemi.rounds.store.run import QUARANTINE_FILE, SPLITS
from cellsemi.rounds.store.schemas import QUARANTINE, ImageRecord
from cellsemi.rounds.store.shards import images_per_shard, shard_paths, write_folder, write_rows

NEEDED = ("labelled", "val", "test")  # a run without unlabelled images is a supervised baseline
WITHOUT_TRAINING = ("val", "test")  # of a run whose teachers are not trained


SHOWN_PROBLEMS = 5  # problems that a message names; all of them stand in the quarantine table


def ingest(
    config: Config,
    out: Path,
    config_hash: str,
    on_image: OnImage,
    needed: Sequence[str] = NEEDED,
    workers: int = 1,
) -> IngestReport:
    """Write `out/SPLIT/part-00000.parquet` .. and `out/quarantine.parquet`.

    Images come in the order of their ids, one shard in memory at a time, so the same data and config give
    the same bytes; shards of an earlier try are removed. `on_image(split, done, of)` is called after each.
    An annotated image without a cell is kept and counted as empty. Labelled images that `data.labelled_limit` does
    not draw are left out of the run and counted, so that runs with different limits have the same unlabelled images;
    or they become unlabelled, their labels hidden, where `data.limit_rest` says so, but for those with the pixels of an
    image that is drawn: they are left out and counted. One that is drawn
    and cannot be used is not replaced, so that the draw depends on ids, classes and seed alone. With
    `data.shard_images: auto` each split is divided for so many `workers`.

    Raises DataError when more than `data.max_quarantined` of the images cannot be used, when a split of
    `needed` has no image or no cell, when the splits leak into each other, or when a row of `data.label_issues`
    does not fit.
    """
    started = time.monotonic()
    issues = open_label_issues(config.data)
    opened = open_data(config)
    if issues is not None:
        issues.check_listed(opened.items)
    items, rest = _draw(list(opened.items), config)
    report = IngestReport(labelled_not_drawn=len(rest), notes=list(opened.notes), left_out=dict(opened.left_out))
    for path in (path for split in SPLITS for path in shard_paths(out / split)):
        path.unlink()
    kept: list[ImageRecord] = []
    for split in sorted(SPLITS, key=lambda split: split == "unlabelled"):  # those last: see `_without_copies`
        chosen = sorted((item for item in items if item.split == split), key=lambda item: item.image_id)
        records = _load(chosen, config.data, issues, report, on_image)
        if split == "unlabelled":
            records = _without_copies(_without_twins(records, rest, kept, report), opened, kept, report)
        counted = _count(records, report, config, kept)
        size = images_per_shard(config.data.shard_images, len(chosen), workers)
        report.shards[split] = write_folder(out / split, counted, size, config_hash)
    for rows in (report.quarantined, kept):
        rows.sort(key=lambda row: SPLITS.index(row.split))
    write_rows(out / QUARANTINE_FILE, [asdict(row) for row in report.quarantined], QUARANTINE, config_hash)
    if issues is not None:
        report.label_issues = issues.close(row.image_id for row in report.quarantined)
        report.notes += report.label_issues.sentences()
    _check(report, len(items), config, needed)
    leak_check(kept)
    report.duplicates |= duplicates(kept)
    report.seconds = time.monotonic() - started
    return report


def _draw(items: list[Item], config: Config) -> tuple[list[Item], frozenset[str]]:
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


def _without_twins(
    records: Iterator[ImageRecord], hidden: Container[str], kept: Sequence[ImageRecord], report: IngestReport
) -> Iterator[ImageRecord]:
    """The unlabelled records without those of hidden labels that have the pixels of a labelled one, which is learnt.

    An unlabelled image of the data set itself with such pixels stays, and the leak check refuses it.
    """
    labelled = {record.sha256 for record in kept if record.sha256}
    for record in records:
        if record.image_id in hidden and record.sha256 in labelled:
            report.hidden_twins += 1
        else:
            yield record


def _load(
    items: Sequence[Item], data: DataConfig, issues: LabelIssueTable | None, report: IngestReport, on_image: OnImage
) -> Iterator[ImageRecord]:
    """The records that can be loaded, label issues ignored; the others are noted in the report."""
    names = ClassNames(data)
    for done, item in enumerate(items, start=1):
        assert item.split is not None
        try:
            record = read_record(item, names, report)
            yield record if issues is None else issues.apply(record)
        except ImageError as error:
            report.quarantined.append(Quarantined(item.image_id, item.split, error.path, error.described))
        on_image(item.split, done, len(items))


def read_record(item: Item, names: ClassNames, report: IngestReport) -> ImageRecord:
    """An image as the run sees it: its split and group, cells in the run's classes, cleaned and counted.

    Raises ImageError when it cannot be used.
    """
    loaded = item.load()
    if item.split != "unlabelled":
        check_no_regions(loaded, item, names)
    cells = None if item.split == "unlabelled" else names.apply(loaded, item)
    if cells is not None and names.data.clean.active:
        cells, changed = clean(cells, names.data.clean)
        report.cleaned = dict(Counter(report.cleaned) + changed)
    count_loaded(loaded, names.dropped(loaded) if cells is not None else Counter(), report)
    return loaded.record.with_(split=item.split, group=item.group, cell_type=names.image_class(item), instances=cells)


def count_loaded(loaded: Loaded, dropped: Counter[str], report: IngestReport) -> None:
    """Count what the reader of an image left out or ignored, and what the class map dropped."""
    report.repeated += loaded.repeated
    report.left_out = dict(Counter(report.left_out) + Counter(loaded.left_out) + dropped)
    report.crowds += loaded.crowds
    report.crowded += is_crowded(loaded)


def _without_copies(
    records: Iterator[ImageRecord], opened: Opened, kept: Sequence[ImageRecord], report: IngestReport
) -> Iterator[ImageRecord]:
    """The unlabelled records without those of data.images.unlabelled that repeat an annotated image; counted.

    Images of val and test that the data itself names count only where they were drawn: `leak_check` refuses the others.
    """
    splits = {"labelled", *opened.drawn}
    annotated = {record.sha256 for record in kept if record.split in splits}
    for record in records:
        if record.image_id in opened.pool and record.sha256 in annotated:
            report.copies += 1
        else:
            yield record


def _count(
    records: Iterator[ImageRecord], report: IngestReport, config: Config, kept: list[ImageRecord]
) -> Iterator[ImageRecord]:
    """Pass the records on, each counted in the report and kept in short."""
    for record in records:
        kept.append(_counted(record, report, config))
        yield record


def _counted(record: ImageRecord, report: IngestReport, config: Config) -> ImageRecord:
    """Count a record; returns it without pixels and masks, which is what the leak check needs."""
    split, cells = record.split, record.instances
    report.images[split] += 1
    if cells is not None:
        human, unknown = cells.in_state("human"), cells.select(not_labelled(cells))
        report.cells[split] += len(human)
        report.ignored[split] += len(cells) - len(human) - len(unknown)
        report.empty[split] += not len(cells)
        if len(unknown):
            report.partly[split] += 1
            report.background_px[split] += int((draw_instance_map(cells, 0) == 0).sum())
        by_class = Counter(config.data.classes[i] for i in human.class_id.tolist())
        report.class_cells[split] = dict(Counter(report.class_cells[split]) + by_class)
    return replace(record, image=None, instances=None)


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
