"""Image files are predicted as the run would, once, and one that is bad costs itself alone."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import helpers.fake_family as fake
import numpy as np
import pytest
import tifffile
from helpers.applied import inline_pool, small_run, write_images
from helpers.terminal import invoke

from cellsemi.configs.errors import DataError, ModelError, UsageError
from cellsemi.configs.formats import WRITABLE
from cellsemi.models.base import Image
from cellsemi.orchestrator.apply.choose_model import choose_model, of_run
from cellsemi.orchestrator.apply.images import find_images
from cellsemi.orchestrator.apply.outputs import place_of
from cellsemi.orchestrator.apply.predict import Application, Wanted, apply
from cellsemi.rounds.cells.cutoffs import Cutoffs
from cellsemi.rounds.cells.instances import COLUMNS, Instances
from cellsemi.rounds.evaluation.history import delivered_model
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.image_codec import decode_image, decode_label_map, to_png
from cellsemi.rounds.store.run import RunPaths

EVERY_SCORE = Cutoffs.same(0.0, 3)


def predict(paths: RunPaths, *names: str | Path, out: str = "out", formats: tuple[str, ...] = ()) -> Application:
    wanted = Wanted(Path(out), EVERY_SCORE, formats)
    return apply(of_run(paths), find_images([str(name) for name in names]), wanted, inline_pool())


def predicted(out: str = "out") -> dict[str, Instances]:
    found = shards.read_folder(Path(out) / "predictions")
    return {record.image_id: record.instances for record in found if record.instances is not None}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that a network saw, one entry each."""
    seen: list[int] = []
    real = fake.FakePredictor._predict

    def counting(self: fake.FakePredictor, image: np.ndarray) -> Instances:
        seen.append(int(image.sum()))
        return real(self, image)

    monkeypatch.setattr(fake.FakePredictor, "_predict", counting)
    return seen


def altered(path: Path, into: Path) -> None:
    """A copy of an image with other pixels, which no run has seen."""
    pixels = decode_image(path.read_bytes(), str(path))
    into.write_bytes(to_png(255 - pixels))


def test_predictions_are_those_of_the_run_bit_for_bit(here: Path, fake_models: None, counted: list[int]) -> None:
    paths = small_run(here)
    round, model = delivered_model(paths)
    write_images(paths, "test", here / "images")
    counted.clear()
    done = predict(paths, "images")
    assert (done.images, done.predicted.known, counted) == (3, 3, [])
    for record in shards.read_folder(paths.predictions(round, model, "test")):
        known = record.instances
        assert known is not None and len(known), "no cell was found: nothing is compared"
        found = predicted()[record.image_id]
        assert all(np.array_equal(getattr(found, name), getattr(known, name)) for name in COLUMNS)


def test_what_was_predicted_is_not_predicted_again(here: Path, fake_models: None, counted: list[int]) -> None:
    paths = small_run(here)
    files = write_images(paths, "unlabelled", here / "images")
    counted.clear()
    first = predict(paths, "images")
    models = len(counted) // len(files)
    assert models and len(counted) == models * len(files) and first.predicted.before == 0
    assert predict(paths, "images").predicted.before == len(files) and len(counted) == models * len(files)
    altered(files[0], files[0])
    altered(files[1], here / "images" / "new.png")
    before = predicted()
    third = predict(paths, "images")
    assert third.predicted.before == len(files) - 1 and len(counted) == models * (len(files) + 2)
    assert third.images == len(files) + 1
    assert len(before) == len(files) and predicted().keys() == before.keys() | {"new"}


def test_a_changed_image_gives_its_new_cells(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    (file, *_) = write_images(paths, "unlabelled", here / "images")
    predict(paths, file, formats=("label-maps",))
    before = decode_label_map((here / f"out/label-maps/{file.stem}_masks.tif").read_bytes(), "x")
    altered(file, file)
    predict(paths, file, formats=("label-maps",))
    after = decode_label_map((here / f"out/label-maps/{file.stem}_masks.tif").read_bytes(), "x")
    assert (before != after).any()


def test_a_shard_that_a_killed_call_left_without_its_commit_is_not_read(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    (file, *_) = write_images(paths, "unlabelled", here / "images")
    predict(paths, file)
    folder = here / "out" / "predictions"
    (record,) = shards.read_folder(folder)
    stale = record.with_(instances=Instances.empty(record.height, record.width))
    shards.write_shard(folder / shards.part_name(7), [stale], "x")
    assert record.instances is not None
    assert predict(paths, file, formats=("coco",)).cells == len(record.instances) > 0


def test_bad_images_are_listed_and_the_others_done(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    write_images(paths, "test", here / "images", "{}[1].png")
    (here / "images" / "broken.tif").write_bytes(b"II*\0damaged")
    tifffile.imwrite(here / "images" / "nan.tif", np.full((64, 64), np.nan, np.float32))
    done = predict(paths, "images", formats=("kaggle",))
    assert done.images == 3 and {state.image_id for state in done.predicted.quarantined} == {"broken", "nan"}
    with (here / "out" / "quarantine.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["images/broken.tif", "images/nan.tif"]
    assert "NaN" in rows[1]["problem"]
    (here / "images" / "broken.tif").unlink()
    (here / "images" / "nan.tif").unlink()
    assert not predict(paths, "images").predicted.quarantined and not (here / "out" / "quarantine.csv").exists()


def test_an_image_that_no_worker_survives_is_listed(
    here: Path, fake_models: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = small_run(here)
    files = write_images(paths, "unlabelled", here / "images")
    poison = decode_image(files[0].read_bytes(), "x").astype(np.float32).sum()
    real = fake.FakePredictor.predict

    def predict_or_die(self: fake.FakePredictor, images: list[Image], scale: float = 1.0) -> list[Instances]:
        if any(np.asarray(image, np.float32).sum() == poison for image in images):
            raise MemoryError("too large")
        return real(self, images, scale)

    monkeypatch.setattr(fake.FakePredictor, "predict", predict_or_die)
    done = predict(paths, "images")
    (bad,) = done.predicted.quarantined
    assert bad.path == str(Path("images") / files[0].name) and "too large" in (bad.problem or "")
    assert done.images == len(files) - 1
    monkeypatch.setattr(fake.FakePredictor, "predict", real)
    assert predict(paths, "images").images == len(files)


def test_a_folder_of_another_model_is_refused(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    write_images(paths, "test", here / "images")
    predict(paths, "images")
    other = small_run(here, 0, "run.name=other", "run.seed=3")
    with pytest.raises(UsageError, match="round"):
        predict(other, "images")
    (here / "full" / "predictions").mkdir(parents=True)
    (here / "full" / "predictions" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="other files"):
        predict(paths, "images", out="full")


def test_no_usable_image_at_all_is_an_error(here: Path, fake_models: None) -> None:
    paths = small_run(here, 0)
    Path("bad.png").write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        predict(paths, "bad.png")


def test_every_format_is_written_and_replaced(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    write_images(paths, "test", here / "images")
    for _ in range(2):
        done = predict(paths, "images", formats=WRITABLE)
        assert set(done.written) == set(WRITABLE) and all(each.images == 3 for each in done.written.values())
        assert all(place_of(name, here / "out").exists() for name in WRITABLE)
    left = [path.name for path in (here / "out").iterdir() if path.name.endswith((".new", ".part", ".tmp"))]
    assert left == []


def test_the_command_predicts_and_says_what(here: Path, fake_models: None) -> None:
    paths = small_run(here)
    write_images(paths, "test", here / "images")
    first = invoke("predict", "images", "--run", str(paths.root), "--out", "out", "--device", "cpu")
    assert first.exit_code == 0, first.output
    assert "had been predicted by the run" in first.output
    assert {"label-maps", "measurements.csv", "overlays"} <= {path.name for path in Path("out").iterdir()}
    second = invoke("predict", "images", "--run", str(paths.root), "--out", "out", "--min-score", "1", "--json")
    assert second.exit_code == 0 and '"cells": 0' in second.output


def test_a_run_without_a_finished_round_is_an_error(here: Path) -> None:
    refused = invoke("predict", "x", "--out", "out")
    assert isinstance(refused.exception, UsageError) and "cellsemi round" in str(refused.exception)
    assert not Path("out").exists()


def test_a_model_and_a_run_exclude_each_other(here: Path, fake_models: None) -> None:
    with pytest.raises(UsageError, match="both"):
        choose_model("demo", here)
    with pytest.raises(ModelError, match="export"):
        choose_model(None, here)


def test_the_newest_row_counts_even_when_times_are_equal(here: Path, fake_models: None) -> None:
    """A file that was replaced within the resolution of the clock, but has another size, is predicted anew."""
    paths = small_run(here)
    files = write_images(paths, "unlabelled", here / "images")
    predict(paths, files[0])
    stamp = files[0].stat()
    altered(files[1], files[0])
    os.utime(files[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert predict(paths, files[0]).predicted.before == 0 or files[0].stat().st_size == stamp.st_size
