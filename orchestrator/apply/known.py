"""Finds predictions that a run has already: of the very same pixels, by the very same models and settings."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cellsemi.configs.schema import Config
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.evaluation.ensemble import Ensemble
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.shards import ShardSet, read_columns, shard_paths
from cellsemi.rounds.store.unaltered import MANIFEST


def known_folders(paths: RunPaths, ensemble: Ensemble, config: Config) -> list[Path]:
    """The folders of predictions that the ensemble would repeat exactly.

    Test images; and validation images where all models predict them together, which folds do not. Unlabelled images
    are predicted with settings of their own and are not among them.
    """
    splits = ["test"] if config.rounds.folds else ["test", "val"]
    folders = [paths.predictions(ensemble.round, ensemble.name, split) for split in splits]
    return [folder for folder in folders if (folder / MANIFEST).is_file()]


class KnownPredictions:
    """The rows of some folders of predictions by the sha256 of their pixels."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._rows: dict[str, tuple[ShardSet, int]] = {}
        for folder in folders:
            records = ShardSet(shard_paths(folder))
            for index, row in enumerate(read_columns(folder, ["sha256"])):
                self._rows[row["sha256"]] = (records, index)

    def find(self, sha256: str) -> Instances | None:
        """The cells of an image with these pixels; None when the run has not predicted it."""
        place = self._rows.get(sha256)
        return None if place is None else place[0][place[1]].instances
