"""Divides the human labels into folds: who learns from which, and who is evaluated on which.

With `rounds.folds` every model is trained once per fold on the others (cross-validation, Stone 1974). A fold is
a lineage of its own through all rounds: its students learn from pseudo-labels of its own teachers only, for a
label made by a model that saw the fold would carry the answer back to those who are evaluated on it. For the same
reason images of one group, and images of equal pixels, stand in one fold, and a fold leaves out of its training sets
the unlabelled images that share a group with the images that evaluate it (`judged_images`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cellsemi.orchestrator.steps.context import Context, do
from cellsemi.rounds.datasets import splits
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.folds import FOLDS, HUMAN_SPLIT, PSEUDO_SPLIT, Fold, folds_of
from cellsemi.rounds.store.manifest import read_manifest, write_manifest
from cellsemi.rounds.store.run import read_shard_workers
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.steps import Step

HUMAN = (HUMAN_SPLIT, "val")  # every human label but test


def divide_folds(context: Context) -> None:
    """Divide the labelled and the val images into `rounds.folds` folds, once; nothing without folds.

    By group and equal pixels, stratified by class. DataError when there are fewer groups than folds.
    """
    config, paths = context.config, context.paths
    if config.rounds.folds is None:
        return
    folds = config.rounds.folds
    total = sum(read_manifest(paths.split(split)).rows for split in HUMAN)
    step = Step(
        round=0,
        name="divide into folds",
        output=paths.split(FOLDS),
        settings=context.read("rounds.folds", "data.split_seed", "data.shard_images", "data.classes"),
        inputs=(paths.data,),
        total=total,
    )

    def work() -> None:
        keys = _keys(context, HUMAN)
        named = [(keys[record.image_id], _main_class(record, config.data.classes)) for record in _human(context)]
        placed = splits.folds([key for key, _ in named], folds, config.data.split_seed, [name for _, name in named])
        fingerprint = context.ledger.fingerprint(step)
        workers = read_shard_workers(paths) or 1
        size = shards.images_per_shard(config.data.shard_images, total // folds, workers)
        for number, fold in enumerate(folds_of(config)):
            records = (record for record, place in zip(_human(context), placed, strict=True) if place == number)
            target = paths.split(fold.val)
            written = shards.write_folder(target, records, size, context.config_hash)
            write_manifest(target, fingerprint, 0.0, written)
        context.watcher.advance(total)

    do(context, step, work)


def judged_images(context: Context, fold: Fold, added: Sequence[Path] = ()) -> frozenset[str]:
    """The ids of the unlabelled images that share a group, or pixels, with an image that evaluates the fold.

    Those of images in the folders `added`, which were labelled since the start, as well. Empty for the one hold-out:
    there a group on both sides is refused when the images are read.
    """
    paths = context.paths
    if not fold.suffix:
        return frozenset()
    keys = _keys(context, fold.human, added)
    judging = {keys[row["image_id"]] for row in shards.read_columns(paths.split(fold.val), ["image_id"])}
    learning = [paths.split(PSEUDO_SPLIT), *added]
    ids = (row["image_id"] for folder in learning for row in shards.read_columns(folder, ["image_id"]))
    return frozenset(image_id for image_id in ids if keys[image_id] in judging)


def _main_class(record: ImageRecord, classes: Sequence[str]) -> str | None:
    """The class that is stated for an image, else that of most of its human cells, the first of equal ones."""
    if record.cell_type is not None or record.instances is None:
        return record.cell_type
    most = record.instances.in_state("human").main_class()
    return None if most is None else classes[most]


def _keys(context: Context, human: Sequence[str], added: Sequence[Path] = ()) -> dict[str, str]:
    """The key of each image of some splits of human labels, of the unlabelled and the added ones, by its id
    (`splits.units`).

    Unlabelled images join human ones: two plates that share one of them are one group.
    """
    columns = ["image_id", "height", "width", "split", "group", "sha256"]
    folders = [context.paths.split(split) for split in (*human, PSEUDO_SPLIT)] + list(added)
    rows = [ImageRecord(**row) for folder in folders for row in shards.read_columns(folder, columns)]
    return dict(zip((row.image_id for row in rows), splits.units(rows), strict=True))


def _human(context: Context) -> Iterator[ImageRecord]:
    """Every annotated image but test, as a training image."""
    for split in HUMAN:
        for record in shards.read_folder(context.paths.split(split)):
            yield record.with_(split=HUMAN_SPLIT)
