"""The training set of a round: a list of label shards and image shards, made on workers, resumable."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.campaigns import bring, config_at

from cellsemi.models.base import FitTask
from cellsemi.orchestrator.stages.build_training_set import BuildJob
from cellsemi.rounds.store import files, shards
from cellsemi.rounds.store.manifest import read_manifest, training_shards
from cellsemi.rounds.store.run import RunPaths

pytestmark = pytest.mark.usefixtures("fake_models")


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it."""


def tables(paths: RunPaths) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(paths.train(1).glob("*.parquet"))}


def test_the_list_names_every_shard_of_labels_and_of_images_with_its_hash(tmp_path: Path) -> None:
    paths, _ = bring(config_at(tmp_path), 1)
    listed = read_manifest(paths.train(1)).shards
    sources = [
        f"data/{split}/{shard.file}"
        for split in ("labelled", "unlabelled")
        for shard in read_manifest(paths.split(split)).shards
    ]
    assert [shard.image_shard.file for shard in listed if shard.image_shard] == sources
    for shard in listed:
        assert shard.image_shard is not None
        assert shard.sha256 == files.sha256_bytes((paths.train(1) / shard.file).read_bytes())
        assert shard.image_shard.sha256 == files.sha256_bytes((paths.root / shard.image_shard.file).read_bytes())
        assert shard.rows == shards.count_rows(paths.train(1) / shard.file)
    assert all(record.image is None for record in shards.read_folder(paths.train(1)))


def test_a_student_hashes_no_shard_at_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, _ = bring(config_at(tmp_path), 0)
    learnt, seen = training_shards(paths.train(0), paths.root), list[FitTask]()
    fit = "helpers.fake_family.FakeFamily.fit"
    monkeypatch.setattr(fit, lambda self, task, progress: seen.append(task) or 1 / 0)
    with pytest.raises(Exception, match="division"):
        bring(config_at(tmp_path / "other"), 0)
    monkeypatch.setattr(files, "sha256_bytes", lambda content: 1 / 0 if len(content) > 10_000 else "x")
    task = seen[0]
    assert task.hashes == learnt.hashes and task.rows == learnt.rows and task.fingerprint
    other = FitTask(
        **{name: getattr(task, name) for name in task.__slots__} | {"hashes": ("another", *task.hashes[1:])}
    )
    monkeypatch.undo()
    assert other.fingerprint != task.fingerprint


@pytest.mark.parametrize("survived", [1, 3])
def test_a_killed_building_goes_on_at_the_shard_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    sound, _ = bring(config_at(tmp_path / "sound", "rounds.curriculum=[0.5]"), 1)
    start, written = BuildJob.start, Counter[int]()

    def dying(job: BuildJob) -> Any:
        worker = start(job)
        whole = worker.run

        def once(item: int) -> Any:
            if job.left_out is not None and sum(written.values()) == survived and not written[-1]:
                written[-1] = 1
                raise Killed
            written[item] += job.left_out is not None
            return whole(item)

        worker.run = once  # type: ignore[method-assign]
        return worker

    monkeypatch.setattr(BuildJob, "start", dying)
    with pytest.raises(Killed):
        bring(config_at(tmp_path / "killed", "rounds.curriculum=[0.5]"), 1)
    paths, _ = bring(config_at(tmp_path / "killed", "rounds.curriculum=[0.5]"), 1)
    assert tables(paths) == tables(sound) and "left_out.parquet" in tables(paths)
    assert read_manifest(paths.train(1)).merged == read_manifest(sound.train(1)).merged
    assert max(written.values()) == 1, "no shard is made twice"
    assert sum(written.values()) - 1 == len(read_manifest(paths.train(1)).shards)
