"""Finds single images in folders of shards by their ids, without reading the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.schemas import ImageRecord


class Lookup:
    """The records of some folders of shards, by image id."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = list(folders)
        self._stored = shards.ShardSet([path for folder in self._folders for path in shards.shard_paths(folder)])
        listed = (row["image_id"] for folder in self._folders for row in shards.read_columns(folder, ["image_id"]))
        self._place = {image_id: place for place, image_id in enumerate(listed)}

    def __getitem__(self, image_id: str) -> ImageRecord:
        found: ImageRecord = self._stored[self._place[image_id]]
        return found

    def cells(self) -> Iterator[tuple[str, Instances]]:
        """(image id, cells) of every image that was annotated or predicted, in order."""
        for folder in self._folders:
            for record in shards.read_folder(folder):
                if record.instances is not None:
                    yield record.image_id, record.instances
