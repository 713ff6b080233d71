"""Notes which images and groups a run has used, so that nothing is scored on what it was trained on unnoticed."""

from __future__ import annotations

from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.run import SPLITS, RunPaths
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.shards import read_columns, shard_paths

SEEN_FILE = "seen_images.json"  # of an exported model
USES = {
    "labelled": "trained on, with their labels",
    "unlabelled": "trained on, with pseudo-labels",
    "val": "used to choose thresholds and models",
}


class SeenImages(OnDisk):
    """The sha256 of the pixels of a run's images, and their groups (plates, wells), each with its split.

    Test images are not among them: a run chooses nothing on them.
    """

    pixels: dict[str, str]
    groups: dict[str, str]

    @classmethod
    def of_run(cls, paths: RunPaths) -> SeenImages:
        """What a run has read."""
        pixels: dict[str, str] = {}
        groups: dict[str, str] = {}
        for split in SPLITS:
            if split not in USES or not shard_paths(paths.split(split)):
                continue
            for row in read_columns(paths.split(split), ["sha256", "group"]):
                pixels.setdefault(row["sha256"], split)
                if row["group"] is not None:
                    groups.setdefault(row["group"], split)
        return cls(pixels=pixels, groups=groups)

    def use_of(self, record: ImageRecord) -> str | None:
        """The split of a run's image with the same pixels; None when the run has never seen them."""
        return self.pixels.get(record.sha256)
