"""Images that were labelled since a run began are noticed, and teach from the next round on when asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.campaigns import Notes, bring, config_at

from cellsemi.configs.errors import DataError
from cellsemi.configs.schema import Config
from cellsemi.orchestrator.review.new_images import look_for_new
from cellsemi.rounds.datasets.open import open_data
from cellsemi.rounds.pseudo_labels.training_set import LABELLED_SINCE
from cellsemi.rounds.review.added import batches, read_batch
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.manifest import read_manifest
from cellsemi.rounds.store.run import RunPaths

pytestmark = pytest.mark.usefixtures("fake_models")
LABELS = np.zeros((64, 80), np.uint16)
LABELS[5:15, 5:20], LABELS[30:45, 40:60] = 1, 2
SPLITS = ["labelled"] * 3 + ["unlabelled"] * 4 + ["val"] * 2 + ["test"] * 2


def image(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 60, LABELS.shape)
    return to_png((noise + 120 * (LABELS > 0)).astype(np.uint8))


def add(root: Path, name: str, split: str, number: int, masks: bool = True, group: str = "") -> None:
    """An image of the data set, its masks and its line in the manifest."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "images" / f"{name}.png").write_bytes(image(number))
    if masks:
        (root / "masks" / f"{name}.png").write_bytes(to_png(LABELS))
    manifest = root / "manifest.csv"
    lines = manifest.read_text().splitlines() if manifest.is_file() else ["id,split,plate"]
    kept = [line for line in lines if not line.startswith(f"{name},")]
    manifest.write_text("\n".join([*kept, f"{name},{split},{group}"]) + "\n")


@pytest.fixture
def run(tmp_path: Path) -> tuple[RunPaths, Config]:
    root = tmp_path / "data"
    for number, split in enumerate(SPLITS):
        add(root, f"im{number:02d}", split, number, split != "unlabelled", f"{split} plate")
    settings = ["data.source=label-maps", f"data.root={root}", "data.classes=[cell]", "data.group_column=plate"]
    limits = "filter.thresholds={cell: {accept: 0.02, reject: 0.01, min_area_px: 4}}"
    config = config_at(tmp_path, *settings, limits, "data.one_class_per_image=false", "rounds.promotion.class_margin=1")
    return bring(config, 1)[0], config


def look(run: tuple[RunPaths, Config], take: bool = False) -> list[str]:
    return list(look_for_new(*run, take=take))


def test_nothing_new_is_nothing_said(run: tuple[RunPaths, Config]) -> None:
    assert look(run) == []
    assert look(run, take=True) == ["no image of the data folder was labelled since the run began"]
    assert list(look_for_new(RunPaths(run[0].root / "nothing"), run[1], take=True)) == []


def test_new_labels_are_counted_and_taken_in_when_asked(run: tuple[RunPaths, Config], tmp_path: Path) -> None:
    paths, config = run
    root = tmp_path / "data"
    add(root, "im05", "labelled", 5)  # was unlabelled
    add(root, "new", "labelled", 77)
    add(root, "new-test", "test", 78)  # what the run judges by stays as it is
    assert look(run) == [
        "the data folder has 10 annotated images, the run has 7: with --take-new the other 3 teach from the next "
        "round on"
    ]
    assert look(run, take=True) == ["3 new labelled images teach from round 2 on"]
    (folder,) = batches(paths)
    batch = read_batch(folder)
    assert (batch.source, batch.from_round, sorted(batch.images)) == ("data", 2, ["im05", "new", "new-test"])
    assert look(run) == []
    watcher = Notes()
    bring(config, 2, watcher)
    counts = read_manifest(paths.train(2)).merged
    assert counts is not None and counts.human_images == 6 and counts.left_out[LABELLED_SINCE] == 1
    assert sum(1 for _ in shards.read_folder(paths.split("test"))) == 2
    assert "round 2: 3 images that were labelled since the start teach as well" in watcher.notes


def test_what_val_or_test_know_never_teaches(run: tuple[RunPaths, Config], tmp_path: Path) -> None:
    root = tmp_path / "data"
    add(root, "copy", "labelled", SPLITS.index("val"))
    add(root, "neighbour", "labelled", 80, group="val plate")
    (root / "manifest.csv").write_text((root / "manifest.csv").read_text())
    lines = look(run, take=True)
    assert lines == ["2 new images are left out: they share pixels or a group with val or test"]
    assert not batches(run[0])


def test_an_image_that_cannot_be_read_is_named(run: tuple[RunPaths, Config], tmp_path: Path) -> None:
    add(tmp_path / "data", "bad", "labelled", 90)
    (tmp_path / "data" / "masks" / "bad.png").write_bytes(b"no picture")
    (line,) = look(run, take=True)
    assert line.startswith("left out: ") and "bad.png" in line and not batches(run[0])


def test_a_run_goes_on_without_its_data_folder(run: tuple[RunPaths, Config], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DataError, match="no such folder"):
        open_data(run[1])
    assert look(run) == []
    with pytest.raises(DataError, match="no such folder"):
        look(run, take=True)
