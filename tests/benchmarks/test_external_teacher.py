"""The benchmark of a folder of imperfect masks: how they are spoiled, and how masks are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers.benchmark_scripts import script
from PIL import Image

from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.matching import hits
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.schemas import ImageRecord

external = script("external_teacher")


def plate(count: int = 20) -> np.ndarray:
    """Squares of 12 pixels, 20 pixels apart."""
    labels = np.zeros((110, 130), np.int32)
    for i in range(count):
        y, x = 4 + 20 * (i // 6), 4 + 20 * (i % 6)
        labels[y : y + 12, x : x + 12] = i + 1
    return labels


def test_thirty_per_cent_are_spoiled_in_the_stated_ways() -> None:
    """Of 20 cells 6 are: two dropped, two moved, one merged, one with a speck beside it."""
    labels = plate()
    for seed in range(5):
        spoiled = external.spoiled(labels, np.random.default_rng(seed))
        truth, found = masks.from_label_map(labels), masks.from_label_map(spoiled)
        right = hits(found.with_(score=1.0), truth)
        exact = sum(((spoiled == number) == (labels == number)).all() for number in range(1, 21))
        # Two dropped, two moved, two that are one now; one of these may be among the others, or moved onto a neighbour.
        assert 12 <= exact <= 15 and 12 <= right.sum() <= 16
        assert len(found) in (18, 19) and (found.area < 40).sum() == 1
    assert (
        external.spoiled(labels, np.random.default_rng(1)) == external.spoiled(labels, np.random.default_rng(1))
    ).all()


def test_halving_keeps_the_labels_and_averages_the_image() -> None:
    labels = np.arange(35, dtype=np.int32).reshape(5, 7)
    assert external.halved(labels).tolist() == [[0, 2, 4], [14, 16, 18]]
    image = np.array([[0, 4, 9], [8, 12, 9]], np.uint8)
    assert external.halved(image).tolist() == [[6]]


def test_masks_are_counted_beside_the_hidden_labels(tmp_path: Path) -> None:
    labels = plate(4)
    Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "a.png")
    found = np.where(labels == 1, 0, labels)
    found[100:110, 100:110] = 9
    cells = masks.from_label_map(found, state=["accepted", "accepted", "ignored", "accepted"], score=1.0)
    shards.write_folder(tmp_path / "t", [ImageRecord("a", 110, 130, "unlabelled", instances=cells)], 4, "hash")
    counted = external.of_the_pool(RunPaths(tmp_path), tmp_path, tmp_path / "t", "accepted")
    assert (counted.right, counted.found, counted.there) == (2, 3, 4)
    assert (counted.precision, counted.recall) == (2 / 3, 0.5)
