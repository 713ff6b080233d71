"""Files are whole or absent, and a full disk is explained."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from cellsemi.configs.errors import RunError
from cellsemi.rounds.store import files


def test_a_failed_write_leaves_the_old_content_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"no space left.*same command again"):
        files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_too_little_free_space_is_reported_before_work(tmp_path: Path) -> None:
    files.check_free_space(tmp_path, 0)
    with pytest.raises(RunError, match=r"MB free, engine.min_free_mb asks for 1000000000"):
        files.check_free_space(tmp_path, 10**9)


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(RunError, match=r"x.json: damaged"):
        files.read_json(tmp_path / "x.json")


def test_json_hash_ignores_key_order() -> None:
    assert files.sha256_json({"a": 1, "b": [2]}) == files.sha256_json({"b": [2], "a": 1})
    assert files.sha256_json({"a": 1}) != files.sha256_json({"a": 2})


@pytest.mark.parametrize("place", ["folder", "file/below"])
def test_a_path_that_cannot_be_a_file_is_refused_in_plain_words(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        files.write_text(tmp_path / place, "x")


def test_a_stream_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def half() -> None:
        with files.atomic_file(tmp_path / "a.csv") as file:
            file.write(b"half")
            raise ValueError("broken off")

    with pytest.raises(ValueError, match="broken off"):
        half()
    assert list(tmp_path.iterdir()) == []


# --- folders --------------------------------------------------------------------------------------------


def written(out: Path, content: str, *, fails: bool = False) -> None:
    with files.atomic_folder(out) as folder:
        assert not any(folder.iterdir())
        (folder / "a.txt").write_text(content, encoding="utf-8")
        if fails:
            raise ValueError("broken off")


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_takes_its_name_when_all_is_in_it(tmp_path: Path, there: bool) -> None:
    out = tmp_path / "x" / "out"
    if there:
        out.mkdir(parents=True)
    with files.atomic_folder(out) as folder:
        (folder / "a.txt").write_text("1", encoding="utf-8")
        assert out.exists() == there and not (out / "a.txt").exists()
    assert (out / "a.txt").read_text(encoding="utf-8") == "1"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_folder_that_breaks_off_leaves_nothing_and_what_was_killed_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "old.txt").write_text("of a call that was killed", encoding="utf-8")
    with pytest.raises(ValueError, match="broken off"):
        written(out, "1", fails=True)
    assert list(tmp_path.iterdir()) == []
    written(out, "2")
    assert [path.name for path in out.iterdir()] == ["a.txt"]


def test_a_folder_that_holds_something_is_kept_and_named_as_the_obstacle(tmp_path: Path) -> None:
    written(tmp_path / "out", "old")
    with pytest.raises(RunError, match=r"out: cannot be written \(Directory not empty\)"):
        written(tmp_path / "out", "new")
    assert (tmp_path / "out" / "a.txt").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_current_folder_is_not_replaced_under_the_user(here: Path) -> None:
    with pytest.raises(RunError, match="is the current folder; name a new one"):
        written(Path(), "1")
    assert list(here.iterdir()) == []


def test_a_full_disk_is_explained_for_a_folder_too(tmp_path: Path) -> None:
    def write() -> None:
        with files.atomic_folder(tmp_path / "out"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"out: no space left"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_of_killed_calls_are_swept_and_nothing_else(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in ("a.tmp", ".b.tmp", ".c.parquet.0123456x.tmp", "d.parquet")]
    for path in [*kept, tmp_path / ".part-00000.parquet.01ab45cd.tmp", tmp_path / "x" / ".run.yaml.deadbeef.tmp"]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    files.sweep_unfinished(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
