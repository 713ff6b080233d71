"""Notices images of the data folder that were labelled since a run began, and takes them in when asked to.

They teach from the next round on, as corrected images do; they never judge: val and test stay what they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from cellsemi.configs.data import GENERATED
from cellsemi.configs.errors import DataError, ImageError
from cellsemi.configs.loading import config_hash
from cellsemi.configs.schema import Config
from cellsemi.rounds.datasets.class_names import ClassNames
from cellsemi.rounds.datasets.ingest_report import IngestReport
from cellsemi.rounds.datasets.open import open_data
from cellsemi.rounds.datasets.read_shards import read_record
from cellsemi.rounds.formats.base import Item
from cellsemi.rounds.review.added import AddedImage, batches, read_batch, write_batch
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.run import SPLITS, RunPaths, read_shard_workers
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.unaltered import MANIFEST

ANNOTATED = tuple(split for split in SPLITS if split != "unlabelled")
JUDGES = ("val", "test")


def look_for_new(paths: RunPaths, config: Config, take: bool) -> Iterator[str]:
    """Sentences about images that were labelled since the run began; with `take` they are taken in.

    The caller holds the run's lock. A data folder that is gone or no longer readable is no matter: the run has its own
    copy; with `take` it is a DataError.
    """
    if not (paths.data / MANIFEST).is_file():
        return
    try:
        found = _new_items(paths, config)
    except DataError:
        if take:
            raise
        return
    if not found:
        if take:
            yield "no image of the data folder was labelled since the run began"
        return
    if not take:
        yield _sentence(paths, len(found))
        return
    yield from _take(paths, config, found)


def _sentence(paths: RunPaths, new: int) -> str:
    has = sum(len(shards.read_columns(paths.split(split), ["image_id"])) for split in ANNOTATED)
    has += len({image_id for folder in batches(paths) for image_id in read_batch(folder).images})
    return (
        f"the data folder has {has + new} annotated images, the run has {has}: with --take-new the other {new} teach "
        "from the next round on"
    )


def _new_items(paths: RunPaths, config: Config) -> list[Item]:
    """The annotated images of the data set that the run does not know."""
    data = config.data
    if data.source == GENERATED or data.labelled_limit is not None:
        return []  # with a limit there are always more than the run took
    known = {row["image_id"] for split in ANNOTATED for row in shards.read_columns(paths.split(split), ["image_id"])}
    known |= {row["image_id"] for row in shards.read_rows(paths.quarantine)}
    known |= {image_id for folder in batches(paths) for image_id in read_batch(folder).images}
    opened = open_data(config)
    return [item for item in opened.items if item.split != "unlabelled" and item.image_id not in known]


def _take(paths: RunPaths, config: Config, items: Sequence[Item]) -> Iterator[str]:
    from_round = len(paths.finished_rounds())
    names, report = ClassNames(config.data), IngestReport()
    judged = [row for split in JUDGES for row in shards.read_columns(paths.split(split), ["group", "sha256"])]
    pixels, groups = {row["sha256"] for row in judged} - {""}, {row["group"] for row in judged} - {None}
    left: Counter[str] = Counter()
    records: list[ImageRecord] = []
    for item in items:
        try:
            record = read_record(replace(item, split="labelled"), names, report)
        except ImageError as error:
            yield f"left out: {error.path}: {error.described}"
            continue
        if record.sha256 in pixels or (config.rounds.folds is None and record.group in groups):
            left["share pixels or a group with val or test"] += 1
            continue
        records.append(record)
    for reason, count in left.items():
        yield f"{count} new images are left out: they {reason}"
    if not records:
        return
    images = {record.image_id: AddedImage(added=_cells(record)) for record in records}
    write_batch(
        paths,
        records,
        config_hash(config),
        shards.images_per_shard(config.data.shard_images, len(records), read_shard_workers(paths) or 1),
        from_round=from_round,
        source="data",
        origin=str(config.data.root),
        images=images,
    )
    yield f"{len(records)} new labelled images teach from round {from_round} on"


def _cells(record: ImageRecord) -> int:
    return 0 if record.instances is None else len(record.instances.in_state("human"))
