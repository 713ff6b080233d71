"""Reading the data on workers: the same bits whoever reads, and a killed call goes on at the shard where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.campaigns import bring, config_at

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError
from cellsemi.configs.schema import Config
from cellsemi.rounds.datasets.ingest import ingest, run_here
from cellsemi.rounds.datasets.ingest_report import IngestReport
from cellsemi.rounds.datasets.read_shards import ReadJob
from cellsemi.rounds.store.image_codec import to_png
from cellsemi.rounds.store.manifest import COMMITS
from cellsemi.rounds.store.run import SPLITS
from cellsemi.rounds.store.shards import read_folder, shard_paths

LABELS = np.zeros((20, 24), np.uint16)
LABELS[2:8, 3:9], LABELS[10:15, 10:20] = 1, 2
OnDone = Callable[[int, dict[str, Any]], None]


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


def data_set(root: Path, pool: int = 11) -> Config:
    """Six labelled, three val and three test images, and a pool: two of its images cannot be used, two are copies."""
    for number, (folder, count) in enumerate({"labelled": 6, "val": 3, "test": 3, "pool": pool}.items()):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            image = np.random.default_rng([number, i]).integers(0, 256, LABELS.shape, np.uint8)
            (root / folder / f"{folder}{i:02d}.png").write_bytes(to_png(image))
            if folder != "pool":
                (root / folder / f"{folder}{i:02d}_masks.png").write_bytes(to_png(LABELS))
    for i in (2, 7):
        (root / "pool" / f"pool{i:02d}.png").write_bytes(b"no image")
    for i in (3, 4):
        (root / "pool" / f"pool{i:02d}.png").write_bytes((root / "labelled" / f"labelled0{i}.png").read_bytes())
    places: dict[str, str] = {split: split for split in ("labelled", "val", "test")}
    images: Any = {**places, "unlabelled": "pool"}
    masks: Any = places
    data = DataConfig(source="paired", root=str(root), images=images, masks=masks, shard_images=2)
    return Config(data=data)


def read(config: Config, out: Path, run: Any = run_here) -> IngestReport:
    return ingest(config, out, "h", lambda *_: None, run=run, fingerprint="f")


def content(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def shuffled(job: ReadJob, items: Sequence[int], on_done: OnDone) -> None:
    """Three workers that take turns, the last shard first."""
    workers = [job.start() for _ in range(3)]
    for number, item in enumerate(reversed(items)):
        on_done(item, workers[number % 3].run(item))


def test_the_shards_and_the_counts_do_not_depend_on_who_reads(tmp_path: Path) -> None:
    config = data_set(tmp_path / "d")
    alone, together = read(config, tmp_path / "a"), read(config, tmp_path / "b", shuffled)
    alone.seconds = together.seconds = 0.0
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert alone == together
    assert alone.images == {"labelled": 6, "unlabelled": 7, "val": 3, "test": 3} and alone.copies == 2
    assert [row.image_id for row in alone.quarantined] == ["pool02", "pool07"]
    assert [shard.rows for shard in alone.shards["unlabelled"]] == [2, 0, 1, 1, 2, 1]


@pytest.mark.parametrize("survived", [0, 1, 4, 9])
def test_a_killed_reading_goes_on_at_the_shard_where_it_stopped(tmp_path: Path, survived: int) -> None:
    config = data_set(tmp_path / "d")
    whole, done = read(config, tmp_path / "a"), list[int]()

    def dies(job: ReadJob, items: Sequence[int], on_done: OnDone) -> None:
        worker = job.start()
        for item in items:
            if len(done) == survived:
                raise Killed
            on_done(item, worker.run(item))
            done.append(item)

    with pytest.raises(Killed):
        read(config, tmp_path / "b", dies)
    again: list[int] = []

    def watched(job: ReadJob, items: Sequence[int], on_done: OnDone) -> None:
        again.extend(items)
        run_here(job, items, on_done)

    resumed = read(config, tmp_path / "b", watched)
    assert sorted([*done, *again]) == list(range(len(again) + survived)), "no shard twice, none left out"
    assert content(tmp_path / "a") == content(tmp_path / "b")
    whole.seconds = resumed.seconds = 0.0
    assert resumed == whole


def test_another_list_or_other_annotations_are_read_from_the_start(tmp_path: Path) -> None:
    config, out, seen = data_set(tmp_path / "d"), tmp_path / "out", list[int]()

    def watched(job: ReadJob, items: Sequence[int], on_done: OnDone) -> None:
        seen.extend(items)
        run_here(job, items, on_done)

    read(config, out, watched)
    shards = len(seen)
    read(config, out, watched)
    assert len(seen) == shards, "all is committed"
    (tmp_path / "d" / "labelled" / "labelled00_masks.png").write_bytes(to_png(LABELS * (LABELS == 1)))
    report = read(config, out, watched)
    assert len(seen) == 2 * shards and report.cells["labelled"] == 11
    (tmp_path / "d" / "pool" / "pool10.png").unlink()
    report = read(config, out, watched)
    assert len(seen) == 3 * shards - 1 and report.images["unlabelled"] == 6
    assert len(shard_paths(out / "unlabelled")) == 5, "the shard that is no longer listed is gone"


def test_what_was_refused_is_read_again_when_it_is_put_right(tmp_path: Path) -> None:
    config, out = data_set(tmp_path / "d"), tmp_path / "out"
    copy = tmp_path / "d" / "test" / "test00.png"
    before = copy.read_bytes()
    copy.write_bytes((tmp_path / "d" / "val" / "val01.png").read_bytes())
    with pytest.raises(DataError, match="the same pixels: 'val01' in val and 'test00' in test"):
        read(config, out)
    assert not (out / COMMITS).exists()
    copy.write_bytes(before)
    assert read(config, out).images["test"] == 3


def test_a_listed_image_that_is_gone_when_its_shard_is_read_is_quarantined(tmp_path: Path) -> None:
    config = data_set(tmp_path / "d")

    def late(job: ReadJob, items: Sequence[int], on_done: OnDone) -> None:
        (tmp_path / "d" / "pool" / "pool00.png").unlink(missing_ok=True)
        run_here(job, items, on_done)

    report = read(config, tmp_path / "out", late)
    assert "pool00" in [row.image_id for row in report.quarantined]
    assert pq.read_table(tmp_path / "out" / "quarantine.parquet").num_rows == 3


@pytest.mark.usefixtures("fake_models")
def test_a_run_that_was_killed_while_it_read_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, _ = bring(config_at(tmp_path / "sound"), 0)
    run, count = ReadJob.start, [0]

    def dying(job: ReadJob) -> Any:
        worker = run(job)
        whole = worker.run

        def once(item: int) -> dict[str, Any]:
            count[0] += 1
            if count[0] == 3:
                raise Killed
            return whole(item)

        worker.run = once  # type: ignore[method-assign]
        return worker

    monkeypatch.setattr(ReadJob, "start", dying)
    with pytest.raises(Killed):
        bring(config_at(tmp_path / "killed"), 0)
    paths, _ = bring(config_at(tmp_path / "killed"), 0)
    for split in SPLITS:
        assert [r.sha256 for r in read_folder(paths.split(split))] == [
            r.sha256 for r in read_folder(sound.split(split))
        ]
    shards = sum(len(shard_paths(paths.split(split))) for split in SPLITS)
    assert count[0] == shards + 1, "only the shard that was in work is read twice"
