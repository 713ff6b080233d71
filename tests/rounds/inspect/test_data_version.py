"""The version of a data set, against sha256sum; what has changed since; the data of a run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers.terminal import invoke
from hypothesis import given
from hypothesis import strategies as st

from cellsemi.configs.errors import UsageError
from cellsemi.configs.loading import load_config
from cellsemi.rounds.inspect.data_version import DataVersion, data_version, read_listing
from cellsemi.rounds.store.run import open_run

HASHES = st.dictionaries(st.sampled_from(["a", "b/c", "b-c", "Z", "é"]), st.sampled_from(["0" * 64, "1" * 64]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    for name, content in {"b.txt": "b", "a/é.txt": "e", "a/x": "", "B": "B", "a-x": "-"}.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(content)
    return made


def test_the_list_is_that_of_sha256sum(folder: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    line = "find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum"
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=True)
    found = data_version(folder)
    assert found.listing == done.stdout and found.size_bytes == 4
    version = subprocess.run(["sha256sum"], input=done.stdout, capture_output=True, text=True, check=True)
    assert version.stdout.split()[0] == found.version


def test_it_does_not_depend_on_the_place_and_says_what_changed(folder: Path, tmp_path: Path) -> None:
    before = data_version(folder)
    assert data_version(shutil.copytree(folder, tmp_path / "copy")).version == before.version
    (folder / "b.txt").write_text("c")
    (folder / "B").rename(folder / "C")
    after = data_version(folder)
    assert after.version != before.version
    assert after.changes_since(before.hashes) == ["B is gone", "C is new", "b.txt has changed"]


@given(HASHES, HASHES)
def test_no_change_is_the_same_version(ours: dict[str, str], theirs: dict[str, str]) -> None:
    one, other = DataVersion(ours, 0), DataVersion(theirs, 0)
    assert (one.version == other.version) == (ours == theirs) == (not one.changes_since(theirs))


def test_what_cannot_be_listed_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a folder"):
        data_version(tmp_path / "nothing")
    with pytest.raises(UsageError, match="no such list"):
        read_listing(tmp_path / "nothing")
    (tmp_path / "list").write_text("abc  x\n")
    with pytest.raises(UsageError, match="line 1: expected a sha256"):
        read_listing(tmp_path / "list")
    (folder / "two\nlines").write_text("")
    with pytest.raises(UsageError, match="line break"):
        data_version(folder)


def test_the_command_keeps_the_list_of_a_run_and_compares(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = open_run(load_config("sartorius", [f"data.root={folder}", "run.name=r"]).config)
    first = invoke("data", "version", "--run", "r")
    assert first.exit_code == 0 and data_version(folder).version in first.output, first.output
    assert read_listing(paths.data_version) == dict(data_version(folder).hashes)
    assert invoke("data", "version", "--run", "r", "--json").exit_code == 0
    (folder / "B").unlink()
    changed = invoke("data", "version", "--run", "r", "--json")
    assert changed.exit_code == 1 and json.loads(changed.output)["changes"] == ["B is gone"]
    out = tmp_path / "list"
    assert invoke("data", "version", str(folder), "--out", str(out)).exit_code == 0
    assert invoke("data", "version", str(folder), "--compare", str(out)).exit_code == 0
    assert isinstance(invoke("data", "version").exception, UsageError | SystemExit)
