"""Notes which images and groups a run has used, so that nothing is scored on what it was trained on unnoticed."""

from __future__ import annotations

from collections.abc import Iterator

from cellsemi.rounds.store.kept_weights import read_kept
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.run import SPLITS, RunPaths
from cellsemi.rounds.store.schemas import ImageRecord
from cellsemi.rounds.store.shards import read_columns, shard_paths

SEEN_FILE = "seen_images.json"  # of an exported model, and beside the run's copy of an earlier one
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


def seen_by_starts(paths: RunPaths) -> Iterator[str]:
    """A sentence for each model whose start, an earlier model, was trained on val or test images of this run."""
    for name, kept in read_kept(paths).items():
        file = paths.root / kept.kept / SEEN_FILE
        if not file.is_file():
            continue
        pixels = SeenImages.read(file).pixels
        trained = {sha256 for sha256, split in pixels.items() if split in ("labelled", "unlabelled")}
        counts = {split: _count(paths, split, trained) for split in ("val", "test")}
        if any(found for found, _ in counts.values()):
            said = " and ".join(f"{found} of {of} {split} images" for split, (found, of) in counts.items())
            yield (
                f"{name} starts from {kept.weights}, which was trained on {said} of this run: scores on them flatter; "
                "keep them apart in data.images, or start from scratch"
            )


def _count(paths: RunPaths, split: str, pixels: set[str]) -> tuple[int, int]:
    """How many images of a split have pixels that are among some, and how many there are."""
    rows = read_columns(paths.split(split), ["sha256"]) if shard_paths(paths.split(split)) else []
    return sum(row["sha256"] in pixels for row in rows), len(rows)
