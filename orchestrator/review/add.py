"""Makes what a person said of images human labels of a run: the one door for corrected masks and for marks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from cellsemi.configs.loading import config_hash
from cellsemi.configs.schema import Config
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.review.added import AddedImage, batches, read_added, write_batch
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.folds import HUMAN_SPLIT
from cellsemi.rounds.store.run import RunPaths, read_shard_workers
from cellsemi.rounds.store.schemas import ImageRecord

ALREADY = "taken before"


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image of the run with its pixels, what a person did to its labels, and the labels that they are now."""

    record: ImageRecord
    image: AddedImage
    cells: Instances


@dataclass(slots=True)
class Taken:
    """What came back. `images` became human labels, `left` did not, by image id with the reason."""

    run: str
    from_round: int
    batch: Path | None = None
    images: dict[str, AddedImage] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "run": self.run,
            "from_round": self.from_round,
            "batch": None if self.batch is None else str(self.batch),
            "images": {name: image.model_dump() for name, image in self.images.items()},
            "left": self.left,
        }


def add_labels(
    paths: RunPaths, config: Config, labelled: Iterable[Labelled], result: Taken, *, origin: str, by: str
) -> None:
    """Write the labels as the next batch of the run and note them in the result; the caller holds the run's lock.

    Labels that the run has already are noted as left. `origin` and `by` are those of the batch (AddedBatch).
    """
    known = {record.image_id: record.instances for record in read_added(batches(paths))}
    records = []
    for each in labelled:
        image_id = each.record.image_id
        if _equal(known.get(image_id), each.cells):
            result.left[image_id] = ALREADY
            continue
        records.append(each.record.with_(split=HUMAN_SPLIT, instances=each.cells))
        result.images[image_id] = each.image
    if not records:
        return
    result.batch = write_batch(
        paths,
        records,
        config_hash(config),
        shards.images_per_shard(config.data.shard_images, len(records), read_shard_workers(paths) or 1),
        from_round=result.from_round,
        source="review",
        origin=origin,
        by=by,
        images=result.images,
    )


def _equal(known: Instances | None, cells: Instances) -> bool:
    """Whether the run has these very labels already."""
    return known is not None and (known.rle, known.state, known.class_id.tolist()) == (
        cells.rle,
        cells.state,
        cast(list[int], cells.class_id.tolist()),
    )
