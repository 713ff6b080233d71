"""Human labels that a run gets after its start: by round, the last of an image counts, by id or pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cellsemi.rounds.cells import masks
from cellsemi.rounds.review.added import AddedImage, batches, labelled_since, read_added, read_batch, write_batch
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.manifest import read_manifest
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.schemas import ImageRecord


def record(image_id: str, cells: int, sha256: str = "") -> ImageRecord:
    labels = np.zeros((6, 20), np.int32)
    for i in range(cells):
        labels[1:4, 4 * i : 4 * i + 3] = i + 1
    return ImageRecord(
        image_id, 6, 20, "labelled", b"png", sha256=sha256, instances=masks.from_label_map(labels, state="human")
    )


def write(paths: RunPaths, from_round: int, *records: ImageRecord) -> Path:
    images = {each.image_id: AddedImage(added=1) for each in records}
    return write_batch(paths, records, "hash", 2, from_round=from_round, source="review", origin="there", images=images)


def cells_of(folders: list[Path]) -> dict[str, int]:
    return {each.image_id: len(each.instances or ()) for each in read_added(folders)}


def test_batches_teach_from_their_round_on_and_the_last_of_an_image_counts(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    assert batches(paths) == []
    first = write(paths, 1, record("a", 1), record("b", 1), record("c", 1))
    second = write(paths, 3, record("b", 3))
    assert batches(paths, 0) == [] and batches(paths, 2) == [first] and batches(paths, 3) == [first, second]
    assert cells_of(batches(paths, 2)) == {"a": 1, "b": 1, "c": 1}
    assert cells_of(batches(paths)) == {"a": 1, "b": 3, "c": 1}
    assert read_manifest(first).rows == 3 and read_batch(second).images["b"].changes == 1


def test_unlabelled_images_are_found_by_id_or_by_pixels(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    pool = [record(name, 0, f"pixels {name}").with_(split="unlabelled", instances=None) for name in ("a", "b", "c")]
    shards.write_folder(paths.split("unlabelled"), pool, 2, "hash")
    folder = write(paths, 1, record("a", 1), record("other", 1, "pixels c"))
    assert labelled_since([folder], paths.split("unlabelled")) == {"a", "c"}
    assert labelled_since([], paths.split("unlabelled")) == frozenset()
