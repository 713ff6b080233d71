"""Keeps the human labels that a run was given after its start: corrected images, and new ones of the data folder.

    RUN/added/000/part-00000.parquet ..   the images with their human labels, of the split `labelled`
    RUN/added/000/manifest.json           as in every folder of shards
    RUN/added/000/added.json              from which round on they teach, where they come from, what was changed

A batch teaches from its round on; the rounds before stay as they were measured. Of an image in several batches the
last one counts. Val and test never change within a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.manifest import write_manifest
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.unaltered import ADDED_FILE

Source = Literal["review", "data"]


class AddedImage(OnDisk):
    """What a person did to the labels of an image; `partly`: only what was changed, or outlined, teaches."""

    kept: int = 0
    added: int = 0
    removed: int = 0
    redrawn: int = 0
    partly: bool = False

    @property
    def changes(self) -> int:
        """Cells that were added, removed or redrawn."""
        return self.added + self.removed + self.redrawn


class AddedBatch(OnDisk):
    """Where a batch of human labels comes from: `origin` is the folder, `by` who made the labels before."""

    from_round: int
    source: Source
    origin: str
    at: str
    by: str = ""
    images: dict[str, AddedImage]


def batches(paths: RunPaths, round: int | None = None) -> list[Path]:
    """The folders of the batches that teach in a round (None: all), in their order. RunError when one is damaged."""
    found = sorted(path.parent for path in paths.added.glob(f"*/{ADDED_FILE}"))
    return [path for path in found if round is None or read_batch(path).from_round <= round]


def read_batch(folder: Path) -> AddedBatch:
    """What is known of a batch."""
    return AddedBatch.read(folder / ADDED_FILE)


def write_batch(
    paths: RunPaths,
    records: Sequence[ImageRecord],
    config_hash: str,
    shard_images: int,
    *,
    from_round: int,
    source: Source,
    origin: str,
    images: dict[str, AddedImage],
    by: str = "",
) -> Path:
    """Write the next batch, whole or not at all; returns its folder."""
    number = max((int(path.name) for path in batches(paths)), default=-1) + 1
    folder = paths.added / f"{number:03d}"
    with files.atomic_folder(folder) as made:
        written = shards.write_folder(made, records, shard_images, config_hash)
        fingerprint = files.sha256_json([shard.model_dump() for shard in written])
        write_manifest(made, fingerprint, 0.0, written)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        AddedBatch(from_round=from_round, source=source, origin=origin, at=now, by=by, images=images).write(
            made / ADDED_FILE
        )
    return folder


def last_batch(folders: Sequence[Path]) -> dict[str, Path]:
    """The last of some batches of each image: the one that counts."""
    return {image_id: folder for folder in folders for image_id in read_batch(folder).images}


def read_added(folders: Sequence[Path]) -> Iterator[ImageRecord]:
    """The images of some batches, each as its last batch has it, one in memory at a time."""
    last = last_batch(folders)
    for folder in folders:
        for record in shards.read_folder(folder):
            if last[record.image_id] == folder:
                yield record


def labelled_since(folders: Sequence[Path], unlabelled: Path) -> frozenset[str]:
    """The ids of the unlabelled images that have human labels in the batches, by id or by equal pixels."""
    columns = ["image_id", "sha256"]
    rows = [row for folder in folders for row in shards.read_columns(folder, columns)]
    ids, pixels = {row["image_id"] for row in rows}, {row["sha256"] for row in rows if row["sha256"]}
    tables = shards.iter_columns(unlabelled, columns) if rows else ()
    pool = (row for table in tables for row in table.to_pylist())
    return frozenset(row["image_id"] for row in pool if row["image_id"] in ids or row["sha256"] in pixels)
