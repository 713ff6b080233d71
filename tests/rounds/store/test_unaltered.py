"""Files of a run that were altered after they were written: never used, and named with the step to redo."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from helpers.campaigns import bring, config_at
from helpers.terminal import invoke

from cellsemi.configs.errors import DataError, RunError
from cellsemi.orchestrator.runs.plan import make_plan
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.datasets.check_shards import check_shards
from cellsemi.rounds.datasets.import_shards import import_data
from cellsemi.rounds.evaluation import leaderboard
from cellsemi.rounds.formats.shards import ShardFolder
from cellsemi.rounds.store import shards, unaltered
from cellsemi.rounds.store.manifest import outputs_fingerprint, read_manifest, write_manifest
from cellsemi.rounds.store.run import RunPaths
from cellsemi.rounds.store.schemas import ImageRecord, to_row


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def remove(named: str) -> None:
    for path in map(Path, named.split(" and ")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    records = [ImageRecord(str(i), 4, 4, "val", instances=Instances.empty(4, 4)) for i in range(3)]
    write_manifest(tmp_path, "print", 0.0, shards.write_folder(tmp_path, records, 2, "hash"))
    return tmp_path


@pytest.mark.parametrize("read", [shards.read_folder, lambda path: shards.read_columns(path, ["image_id"])])
def test_a_flipped_bit_is_altered_to_every_reader(folder: Path, read: object) -> None:
    assert callable(read) and len(list(read(folder))) == 3
    flip(folder / "part-00001.parquet")
    with pytest.raises(RunError, match=r"part-00001\.parquet: altered since it was written"):
        list(read(folder))
    with pytest.raises(RunError, match="altered"):
        shards.count_rows(folder / "part-00001.parquet")


def test_no_flipped_bit_changes_what_is_read_in_parts_and_no_file_is_read_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the sha256 of its footer and the checksums of its pages: what they do not tell is never looked at."""
    path, hashed = folder / "part-00000.parquet", list[Path]()
    whole, expected = path.read_bytes(), list(shards.read_shard(folder / "part-00000.parquet"))
    monkeypatch.setattr(unaltered, "_sha256", lambda path: hashed.append(path) or 1 / 0)
    missed = []
    for place in range(0, len(whole), 11):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        try:
            found = list(shards.ShardSet([path]))
        except RunError as error:
            assert "part-00000.parquet" in str(error) and ("altered" in str(error) or "damaged" in str(error))
        else:
            assert [to_row(record) for record in found] == [to_row(record) for record in expected]
            missed.append(place)
    assert len(missed) < 0.05 * len(whole) / 11, missed
    path.write_bytes(whole)
    assert len(shards.ShardSet(shards.shard_paths(folder))) == 3 and not hashed


def test_a_shard_is_read_for_this_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(list(shards.read_folder(folder))) == 3
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: 1 / 0)
    assert len(list(shards.read_folder(folder))) == 3


def test_a_damaged_file_that_nothing_lists_is_damaged(folder: Path) -> None:
    (folder / unaltered.MANIFEST).unlink()
    content = (folder / "part-00000.parquet").read_bytes()
    (folder / "part-00000.parquet").write_bytes(content[:4] + bytes(60) + content[64:])
    with pytest.raises(RunError, match=r"part-00000\.parquet: damaged: not a readable Parquet file"):
        list(shards.read_folder(folder))
    (folder / "part-00000.parquet").write_bytes(b"")
    with pytest.raises(RunError, match="damaged"):
        list(shards.read_folder(folder))


def test_what_is_missing_is_named(folder: Path) -> None:
    with pytest.raises(RunError, match=r"part-00009\.parquet: missing"):
        list(shards.read_shard(folder / "part-00009.parquet"))
    for read in (read_manifest, outputs_fingerprint):
        with pytest.raises(RunError, match="missing"):
            read(folder / "absent")


def test_an_altered_import_is_refused(tmp_path: Path) -> None:
    import_data(config_at(tmp_path), tmp_path / "import", lambda *_: None)
    assert len(list(ShardFolder(tmp_path / "import").items())) == 14
    path = tmp_path / "import" / "val" / "part-00001.parquet"
    before = path.read_bytes()
    path.write_bytes(before[:-20] + bytes([before[-20] ^ 1]) + before[-19:])
    with pytest.raises(DataError, match=r"val/part-00001\.parquet: altered since the import wrote it; import anew"):
        list(ShardFolder(tmp_path / "import").items())
    found = before.index(b"\x89PNG")
    path.write_bytes(before[: found + 9] + bytes([before[found + 9] ^ 1]) + before[found + 10 :])
    with pytest.raises(DataError, match=r"val/part-00001\.parquet: damaged(.|\n)*import anew"):
        [item.load() for item in ShardFolder(tmp_path / "import").items()]


ALTERED = {  # rounds of the run before, what is altered: the step that the message names
    (0, "data/unlabelled/part-00000.parquet"): "read images",
    (0, "data/val/manifest.json"): "read images",
    (0, "round-00/evaluation.parquet"): "evaluate",
    (0, "round-00/students/unet-a/model.json"): "train unet-a",
    (1, "round-01/filter.json"): "calibrate and choose thresholds",
    (1, "round-01/pseudo/manifest.json"): "filter pseudo-labels",
}


@pytest.mark.usefixtures("fake_models")
def test_altered_files_of_a_run_are_refused_and_the_remedy_mends_it(tmp_path: Path) -> None:
    for n in (0, 1):
        paths, _ = bring(config_at(tmp_path / f"{n}"), n)
        assert check_shards(paths.root, lambda done: None).problems == []
    for (n, name), step in ALTERED.items():
        root = tmp_path / Path(name).stem / Path(name).parent.name
        shutil.copytree(tmp_path / f"{n}", root)
        flip(root / "demo" / name)
        found = check_shards(root / "demo", lambda done: None)
        assert [problem for problem in found.problems if Path(name).parts[-2] in problem.place]
        with pytest.raises(RunError, match=rf"altered since(.|\n)*'{step}' of round") as error:
            bring(config_at(root), n + 1)
        if name.endswith(("unlabelled/part-00000.parquet", "filter.json")):
            remove(str(error.value).partition("remove ")[2].partition(" and give")[0])
            mended, notes = bring(config_at(root), n)
            assert mended.finished_rounds() == [*range(n + 1)]
            assert check_shards(mended.root, lambda done: None).problems == []
            assert not [name for name in notes.begun if "train" in name or "predict" in name]


@pytest.mark.usefixtures("fake_models")
def test_an_emptied_or_removed_run_yaml_and_a_removed_leaderboard_say_so(here: Path) -> None:
    paths, _ = bring(config_at(here / "runs"), 0)
    before = paths.config.read_bytes()
    for content, cause in [(b"", "it is empty"), (b"\xff", "utf-8"), (b"config: 3", "no config"), (b"a: [", "parsing")]:
        paths.config.write_bytes(content)
        assert cause in str(invoke("status", "demo").exception)
        assert cause in str(invoke("round", "--n", "1", "--run", "demo").exception)
    paths.config.unlink()
    message = str(invoke("status", "demo").exception)
    assert "it is gone" in message and "--config FILE --run demo" in message
    same = make_plan(config_at(here / "runs"), 0)
    assert same.count("redone") == 0 and not same.asks  # as the message says: the config makes run.yaml anew
    other = make_plan(config_at(here / "runs", "run.seed=5"), 0)
    assert other.count("redone") > 0 and other.asks
    paths.config.write_bytes(before)
    paths.leaderboard.with_suffix(".parquet").unlink()
    with pytest.raises(
        RunError, match=r"missing, though round 0 is finished; `cellsemi round --n 0 --run demo` writes it again"
    ):
        leaderboard.read(paths.leaderboard)
    _, notes = bring(config_at(here / "runs"), 0)
    assert leaderboard.read(paths.leaderboard) and not notes.begun
    with pytest.raises(RunError, match="no leaderboard yet"):
        leaderboard.read(RunPaths(here / "new").leaderboard)
