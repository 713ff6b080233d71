"""Reads the listed images of a data set into shards: one after another, on whichever worker.

What is written depends on the list and on the images alone, not on who reads how many of them.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import pyarrow.parquet as pq

from cellsemi.configs.data import DROP, DataConfig, Split
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.configs.schema import Config
from cellsemi.rounds.cells.instance_map import draw_instance_map
from cellsemi.rounds.cells.regions import regions
from cellsemi.rounds.datasets.class_names import DROPPED, ClassNames
from cellsemi.rounds.datasets.cleaning import clean
from cellsemi.rounds.datasets.ignore_label_issues import LabelIssueTable, open_label_issues
from cellsemi.rounds.datasets.ingest_report import IngestReport, Quarantined, is_crowded
from cellsemi.rounds.datasets.open import annotated_items
from cellsemi.rounds.formats.base import Item, Loaded, root_of
from cellsemi.rounds.formats.shared.folder import image_at
from cellsemi.rounds.formats.shared.partly_labelled import not_labelled
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.manifest import COMMITS, Commit, write_commit
from cellsemi.rounds.store.schemas import ImageRecord

LIST_FILE = "list.parquet"  # among the commits: a row group for each shard that is to be read
ANNOTATED = ("labelled", "val", "test")  # the splits that are read first


@dataclass(frozen=True, slots=True)
class ReadJob:
    """Reads the images of a shard: item i is row group i of the list.

    `drawn` are the splits that the data does not say. Unlabelled images are compared with the annotated ones, whose
    shards must be there.
    """

    config: Config
    out: str
    fingerprint: str
    config_hash: str
    drawn: frozenset[str]
    name: str = "read images"
    uses_device: bool = False

    def start(self) -> ShardReader:
        """Open the list; the annotations are opened when a shard needs them."""
        return ShardReader(self)


class ShardReader:
    """Reads shards of images."""

    def __init__(self, job: ReadJob) -> None:
        self._job, self._out = job, files.place(job.out)
        self._list = pq.ParquetFile(files.local(self._out / COMMITS / LIST_FILE))
        self._names = ClassNames(job.config.data)
        self._issues = open_label_issues(job.config.data)

    def run(self, item: int) -> dict[str, Any]:
        """Write one shard, and its commit with what was counted in it."""
        rows = self._list.read_row_group(item).to_pylist()
        report = IngestReport()
        issues = None if self._issues is None else self._issues.part(row["image_id"] for row in rows)
        records = list(self._records(rows, issues, report))
        written = shards.write_shard(
            self._out / rows[0]["split"] / shards.part_name(rows[0]["shard"]), records, self._job.config_hash
        )
        report.label_issues = None if issues is None else issues.counts
        commit = Commit(item=item, fingerprint=self._job.fingerprint, ingested=report.changed(), **written.model_dump())
        write_commit(self._out, commit)
        return commit.model_dump()

    def _records(
        self, rows: Sequence[Mapping[str, Any]], issues: LabelIssueTable | None, report: IngestReport
    ) -> Iterator[ImageRecord]:
        for row in rows:
            item = self._item(row)
            try:
                record = read_record(item, self._names, report)
            except ImageError as error:
                report.quarantined.append(Quarantined(item.image_id, row["split"], error.path, error.described))
                continue
            if item.split == "unlabelled" and self._repeats(row, record, report):
                continue
            record = record if issues is None else issues.apply(record)
            count(record, self._job.config.data.classes, report)
            yield record

    def _item(self, row: Mapping[str, Any]) -> Item:
        """The item of a row of the list, with what loads it."""
        image_id, split = row["image_id"], cast(Split, row["split"])
        if row["path"] is not None:
            load = partial(_load_plain, row["path"], image_id, self._job.config.data)
            return Item(image_id, split, row["place"], load, row["cell_type"], row["group"])
        found = self._annotated.get(image_id)
        if found is None:
            raise DataError(f"{row['place']}: image {image_id!r} is no longer listed; the data set changed meanwhile")
        return replace(found, split=split)

    @functools.cached_property
    def _annotated(self) -> dict[str, Item]:
        return {item.image_id: item for item in annotated_items(self._job.config)}

    @functools.cached_property
    def _learnt(self) -> dict[str, set[str]]:
        """The hashes of the annotated images, by split."""
        found: dict[str, set[str]] = {}
        for split in ANNOTATED:
            tables = shards.iter_columns(self._out / split, ["sha256"])
            found[split] = {sha256 for table in tables for sha256 in table["sha256"].to_pylist() if sha256}
        return found

    def _repeats(self, row: Mapping[str, Any], record: ImageRecord, report: IngestReport) -> bool:
        """Whether an unlabelled image is left out, since it has the pixels of an annotated one; counted.

        So are hidden labels with the pixels of a labelled image, which is learnt, and images of data.images.unlabelled
        that repeat an annotated one. Images of val and test that the data itself names count only where they were
        drawn: `leak_check` refuses the others, and all other unlabelled images with such pixels.
        """
        learnt = self._learnt
        if row["hidden"] and record.sha256 in learnt["labelled"]:
            report.hidden_twins += 1
            return True
        splits = {"labelled", *self._job.drawn}
        if row["path"] is not None and any(record.sha256 in learnt[split] for split in splits if split in learnt):
            report.copies += 1
            return True
        return False


def _load_plain(path: str, image_id: str, data: DataConfig) -> Loaded:
    return Loaded(image_at(root_of(data), path, image_id, data))


# --- one image ----------------------------------------------------------------------------------------


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
    _count_loaded(loaded, names.dropped(loaded) if cells is not None else Counter(), report)
    return loaded.record.with_(split=item.split, group=item.group, cell_type=names.image_class(item), instances=cells)


def _count_loaded(loaded: Loaded, dropped: Counter[str], report: IngestReport) -> None:
    """Count what the reader of an image left out or ignored, and what the class map dropped."""
    report.repeated += loaded.repeated
    report.left_out = dict(Counter(report.left_out) + Counter(loaded.left_out) + dropped)
    report.crowds += loaded.crowds
    report.crowded += is_crowded(loaded)


def count(record: ImageRecord, classes: Sequence[str], report: IngestReport) -> None:
    """Count a record that is used."""
    split, cells = record.split, record.instances
    report.images[split] += 1
    if cells is None:
        return
    human, unknown = cells.in_state("human"), cells.select(not_labelled(cells))
    report.cells[split] += len(human)
    report.ignored[split] += len(cells) - len(human) - len(unknown)
    report.empty[split] += not len(cells)
    if len(unknown):
        report.partly[split] += 1
        report.background_px[split] += int((draw_instance_map(cells, 0) == 0).sum())
    by_class = Counter(classes[i] for i in human.class_id.tolist())
    report.class_cells[split] = dict(Counter(report.class_cells[split]) + by_class)


# --- regions ------------------------------------------------------------------------------------------


def check_no_regions(loaded: Loaded, item: Item, names: ClassNames) -> None:
    """ImageError when annotations of an image are regions, unless `data.class_map` names their class."""
    cells = loaded.record.instances
    if cells is None or not len(cells):
        return
    of_cell = [loaded.classes[i] if loaded.classes else "" for i in cells.class_id.tolist()]
    kept = [i for i, name in enumerate(of_cell) if not name or names.find(name) != DROPPED]
    found = regions(cells.select(kept), rectangles=bool(loaded.classes))
    wrong = [name for name, region in zip((of_cell[i] for i in kept), found, strict=True) if region]
    wrong = [name for name in wrong if name not in names.data.class_map]
    if wrong:
        raise ImageError(item.place, *_words(sorted(set(wrong)), len(wrong)))


def _words(classes: Sequence[str], count: int) -> tuple[str, str]:
    """Problem and remedy for regions of these classes; "" stands for none."""
    many = f"{count} annotations are regions that hold" if count > 1 else "an annotation is a region that holds"
    if classes == [""]:
        return f"{many} cells, not a cell", "export the cells alone, or give the regions a class that can be dropped"
    shown = ", ".join(name for name in classes if name)
    drops = ", ".join(f'"{name}": {DROP}' for name in classes if name)
    outlines = ", ".join(f'"{name}"' for name in classes if name)
    remedy = (
        f"--set 'data.class_map={{{drops}}}' leaves them out; --set 'data.partial=[{outlines}]' says that they outline "
        "what was labelled; mapped to a class they are taken as cells"
    )
    return f"{many} cells, not a cell ({shown})", remedy
