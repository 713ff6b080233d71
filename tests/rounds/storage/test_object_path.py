"""The names of objects are those of a PosixPath, and what is asked of them has the answers of a folder."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from helpers.s3_server import BUCKET, S3Server, s3_server, use_server
from hypothesis import given
from hypothesis import strategies as st

from cellsemi.configs.errors import RunError
from cellsemi.rounds.storage import appended, local_copies, object_store
from cellsemi.rounds.storage.memory import around
from cellsemi.rounds.storage.object_path import ObjectPath
from cellsemi.rounds.store import files

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in (".", "..") and "://" not in name
)
KEYS = st.lists(NAMES, min_size=1, max_size=5)


@given(KEYS, KEYS, st.sampled_from(["s3", "gs"]))
def test_names_are_those_of_a_posix_path(key: list[str], more: list[str], scheme: str) -> None:
    """The reference is pathlib's own PurePosixPath of the same parts below /bucket."""
    path, like = ObjectPath(f"{scheme}://bucket/{'/'.join(key)}"), PurePosixPath("/bucket", *key)

    def same(found: Path, expected: PurePosixPath) -> bool:
        return str(found) == f"{scheme}:/{expected}" and isinstance(found, ObjectPath)

    assert same(path, like) and same(path.parent, like.parent) and same(path / "/".join(more), like / "/".join(more))
    assert same(path.joinpath(*more), like.joinpath(*more)) and same(path.with_name("x"), like.with_name("x"))
    assert (path.name, path.stem, path.suffix) == (like.name, like.stem, like.suffix)
    below = path / "/".join(more)
    assert below.relative_to(path).as_posix() == "/".join(more) and below.is_relative_to(path)
    assert same(path / below.relative_to(path), like.joinpath(*more))
    assert [str(each) for each in path.parents] == [f"{scheme}:/{each}" for each in like.parents][:-1]
    assert list(around(str(path))) == [str(each) for each in (path, *path.parents)]
    again = pickle.loads(pickle.dumps(path))  # noqa: S301
    assert again == path == files.place(str(path)) and hash(again) == hash(path) and isinstance(again, ObjectPath)
    assert path.match("x/*") == like.match("x/*") and (path < below) and path.resolve() is path


def test_a_place_is_an_object_or_a_file(tmp_path: Path) -> None:
    assert not isinstance(files.place("runs/a"), ObjectPath) and not isinstance(files.place(tmp_path), ObjectPath)
    assert not isinstance(files.place("http://bucket/a"), ObjectPath)
    path = ObjectPath("s3://bucket/a")
    assert path / tmp_path == tmp_path and path / "s3://other/b" == ObjectPath("s3://other/b")
    with pytest.raises(RunError, match="files of this machine only"):
        os.fspath(path)
    with pytest.raises(RunError, match="writes on this machine"):
        files.write_text(Path(str(path)), "x")  # a path of this machine that an address was taken for
    assert not (ObjectPath("s3://bucket").is_file() or ObjectPath("s3:").exists())  # and nobody is asked


# --- with a server ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def folder(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> ObjectPath:
    """An empty folder in a bucket."""
    use_server(server, tmp_path / "copies", monkeypatch)
    return ObjectPath(f"s3://{BUCKET}/{request.node.name}")


def fill(folder: Path) -> None:
    for name in ("a.json", "b/part-0.parquet", "b/manifest.json", "b/c/manifest.json", "b/c/d/[x].txt", "e/.f.tmp"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def test_a_folder_of_objects_answers_as_one_of_files(folder: ObjectPath, tmp_path: Path) -> None:
    fill(folder)
    fill(tmp_path / "like")
    like = tmp_path / "like"

    def names(found: Iterator[Path], root: Path) -> list[str]:
        return sorted(path.relative_to(root).as_posix() for path in found)

    assert names(folder.iterdir(), folder) == names(like.iterdir(), like)
    for pattern in ("*", "*.json", "*/manifest.json", "b/part-*.parquet", "b/c", "b/*/d/*", "none/*"):
        assert names(folder.glob(pattern), folder) == names(like.glob(pattern), like), pattern
    for pattern in ("manifest.json", "*.json", ".*.tmp", "*"):
        assert names(folder.rglob(pattern), folder) == names(like.rglob(pattern), like), pattern
    for name in ("", "a.json", "b", "b/c", "none", "b/part"):
        one, other = folder / name, like / name
        expected = (other.exists(), other.is_file(), other.is_dir())
        assert (one.exists(), one.is_file(), one.is_dir()) == expected, name
    assert sorted(files.list_names(folder)) == sorted(files.list_names(like))
    assert (folder / "a.json").stat().st_size == (like / "a.json").stat().st_size
    for missing in (lambda path: path.read_bytes(), lambda path: path.stat(), lambda path: path.open("rb")):
        for root in (folder, like):
            with pytest.raises(FileNotFoundError):
                missing(root / "none")
    with pytest.raises(FileNotFoundError):
        list((folder / "none").iterdir())


def test_objects_are_written_moved_and_removed(folder: ObjectPath) -> None:
    fill(folder)
    moved = (folder / "b").replace(folder / "moved")
    assert (moved / "c/d/[x].txt").read_text() == "b/c/d/[x].txt" and not (folder / "b/c").is_dir()
    (folder / "a.json").replace(folder / "b.json")
    assert not (folder / "a.json").exists() and (folder / "b.json").read_bytes() == b"a.json"
    (folder / "link").hardlink_to(folder / "b.json")
    assert (folder / "link").read_bytes() == b"a.json"
    (folder / "link").unlink()
    (folder / "link").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "link").unlink()
    with pytest.raises(OSError, match="not empty"):
        folder.rmdir()
    files.remove_folder(folder)
    assert not list(folder.rglob("*"))
    files.remove_folder(folder / "none", ignore_errors=True)


def test_the_writers_write_whole_objects(folder: ObjectPath) -> None:
    files.write_json(folder / "x.json", {"a": 1})
    assert files.read_json(folder / "x.json") == {"a": 1}
    with files.atomic_file(folder / "big") as file:
        file.write(bytes(range(256)) * 50_000)  # more than one part of an upload
        assert not (folder / "big").exists() and Path(file.name).is_file()
    assert (folder / "big").read_bytes() == bytes(range(256)) * 50_000
    with pytest.raises(ZeroDivisionError), files.atomic_file(folder / "never") as file:
        file.write(b"half")
        raise ZeroDivisionError
    with files.atomic_folder(folder / "out") as made:
        (made / "manifest.json").write_text("{}")
        (made / "sub").mkdir()
        (made / "sub/part").write_bytes(b"1")
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "big", "out/manifest.json", "out/sub/part", "x.json",
    ]  # fmt: skip
    with pytest.raises(RunError, match="holds something already"), files.atomic_folder(folder / "out"):
        pass


def test_a_change_is_seen_and_has_another_stamp_and_copy(folder: ObjectPath, server: S3Server) -> None:
    path = folder / "x.parquet"
    path.write_bytes(b"one")
    stamp, copy = path.stat(), files.local(path)
    assert copy.read_bytes() == b"one" and copy.suffix == ".parquet" and files.local(path) == copy
    path.write_bytes(b"two")  # as many bytes, and in the same second
    assert path.stat().st_mtime_ns != stamp.st_mtime_ns and path.stat().st_size == stamp.st_size
    assert files.local(path).read_bytes() == b"two" and path.read_bytes() == b"two" and copy.read_bytes() == b"one"
    asked = server.counts()
    assert path.is_file() and path.exists() and path.read_bytes() == b"two" and files.local(path).is_file()
    assert server.counts() == asked  # remembered: a moment ago
    object_store.others_wrote()
    assert path.read_bytes() == b"two"
    assert server.counts()["HEAD"] == asked["HEAD"] + 1 and server.counts()["GET"] == asked["GET"]  # the same as before


def test_copies_are_bounded(folder: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_copies, "LIMIT", 2500)
    paths = [folder / f"{number}" for number in range(4)]
    copies = []
    for age, path in enumerate(paths):
        path.write_bytes(bytes(1000))
        copies.append(files.local(path))
        os.utime(copies[-1], (age, age))
    assert [copy.is_file() for copy in copies] == [False, False, True, True]
    assert files.local(paths[0]).is_file()  # it is fetched again


def test_what_is_appended_is_written_at_times_and_when_it_is_read(
    folder: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "events.jsonl"
    with path.open("ab") as file:
        file.write(b"1\n")
    assert path.is_file() and path.read_bytes() == b"1\n"
    with path.open("a", encoding="utf-8") as file:
        file.write("2\n")
    assert object_store.get(str(path)) == b"1\n"  # as another process sees it
    appended.settle_all()
    assert object_store.get(str(path)) == b"1\n2\n"
    appended.forget(str(path))  # as another process begins
    with path.open("ab") as file:
        file.write(b"3\n")
    assert path.read_bytes() == b"1\n2\n3\n"
    files.write_bytes(folder / "progress.json", b"1", durable=False)
    files.write_bytes(folder / "progress.json", b"2", durable=False)
    assert [each.name for each in folder.iterdir()] == ["events.jsonl", "progress.json"]
    assert (folder / "progress.json").read_bytes() == b"2"
    files.write_bytes(folder / "progress.json", b"3", durable=False)
    files.remove_folder(folder)
    appended.settle_all()
    assert not folder.exists()  # what was removed does not come back


@pytest.mark.parametrize("status", [500, 503])
def test_5xx_answers_are_tried_again(folder: ObjectPath, server: S3Server, status: int) -> None:
    failed = server.counts()["failed"]
    server.fail(2, status)
    files.write_json(folder / "x.json", [status])
    assert files.read_json(folder / "x.json") == [status] and [p.name for p in folder.iterdir()] == ["x.json"]
    (folder / "x.json").unlink()
    assert server.counts()["failed"] >= failed + 6


def test_an_answer_that_does_not_come_is_asked_for_again(folder: ObjectPath, server: S3Server) -> None:
    server.slow(1, 60.0, ["HEAD"])
    files.write_json(folder / "x.json", [1])
    assert files.read_json(folder / "x.json") == [1]


def test_what_the_store_refuses_is_explained(folder: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"s3://nobody/x: .*NO_SUCH_BUCKET.*See that the bucket exists"):
        files.write_bytes(ObjectPath("s3://nobody/x"), b"1")
    object_store.take_away(f"{folder}/", "another driver is at work")
    with pytest.raises(RunError, match="another driver"):
        files.write_bytes(folder / "x", b"1")
    object_store.give_back(f"{folder}/")
    files.write_bytes(folder / "x", b"1")
