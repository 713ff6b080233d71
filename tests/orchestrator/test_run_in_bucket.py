"""A whole run in a bucket: the tables of the same run in a folder, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.campaigns import bring, config_at, tables
from helpers.s3_server import BUCKET, S3Server, s3_server

from cellsemi.rounds.store.run import RunPaths


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, which processes of this test use; the current folder is empty, and stays so."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CELLSEMI_OBJECT_CACHE", str(tmp_path / "copies"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return server


@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory: pytest.TempPathFactory) -> RunPaths:
    return bring(config_at(tmp_path_factory.mktemp("folder")), 1)[0]


def test_a_run_in_a_bucket_has_the_tables_of_one_in_a_folder(
    fake_models: None, bucket: S3Server, tmp_path: Path
) -> None:
    expected, _ = bring(config_at(tmp_path / "folder"), 1)
    found, _ = bring(config_at(f"s3://{BUCKET}/runs"), 1)
    assert tables(found) == tables(expected)
    assert list(Path.cwd().iterdir()) == []  # nothing lies in a folder that is called s3:
