"""One driver at a time works on a run; the error names it, and nothing keeps the lock after its end."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from cellsemi.configs.errors import RunError
from cellsemi.rounds.store.lock import driver_lock, read_holder
from cellsemi.rounds.store.run import RunPaths

HOLD = """
    import os, signal, sys
    from pathlib import Path
    from cellsemi.rounds.store import lock, run
    with lock.driver_lock(run.RunPaths(Path(sys.argv[1]))):
        print("held", flush=True)
        sys.stdin.read()
        if len(sys.argv) > 2:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def is_locked(paths: RunPaths) -> bool:
    return read_holder(paths) is not None


@contextlib.contextmanager
def held_by_another(paths: RunPaths, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock inside of the block; with an argument it is killed at the end."""
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(paths.root), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.communicate("")


@contextlib.contextmanager
def held_for_an_instant(lock: FileLock) -> Iterator[None]:
    """Another thread releases the lock a moment after the block begins."""
    release = threading.Timer(0.02, lock.release)
    release.start()
    yield
    release.join()


def test_a_second_driver_is_refused_and_named(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert not is_locked(paths) and list(tmp_path.iterdir()) == []  # asking leaves nothing behind
    with driver_lock(paths):
        assert is_locked(paths)
        with (
            pytest.raises(RunError, match=r"another cellsemi is working on this run \(process \d+ on"),
            driver_lock(paths),
        ):
            pass
        assert is_locked(paths)
    assert not is_locked(paths)
    with driver_lock(paths):
        pass


def test_the_holder_in_another_process_is_named_and_its_file_can_be_read(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    with held_by_another(paths) as process:
        holder = json.loads((tmp_path / "run.lock.json").read_text())
        assert (holder["pid"], holder["host"]) == (process.pid, socket.gethostname())
        assert is_locked(paths)
        with (
            pytest.raises(RunError, match=rf"process {process.pid} on {socket.gethostname()}\)\. Wait for it"),
            driver_lock(paths),
        ):
            pass
    assert process.returncode == 0 and not is_locked(paths)
    assert not (tmp_path / "run.lock.json").exists()


def test_a_killed_driver_leaves_no_lock(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    with held_by_another(paths, "killed") as process:
        assert is_locked(paths)
    assert process.returncode == -9
    assert not is_locked(paths)
    with driver_lock(paths):
        assert json.loads((tmp_path / "run.lock.json").read_text())["pid"] == os.getpid()


def test_an_unreadable_holder_file_hides_nothing_but_the_name(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    with driver_lock(paths):
        (tmp_path / "run.lock.json").write_text('{"pid": ')
        with (
            pytest.raises(RunError, match=r"another cellsemi is working on this run \(process unknown\)"),
            driver_lock(paths),
        ):
            pass


def test_a_lock_that_is_held_for_an_instant_is_waited_for(tmp_path: Path) -> None:
    other = FileLock(tmp_path / "run.lock", thread_local=False)
    other.acquire()
    with held_for_an_instant(other), driver_lock(RunPaths(tmp_path)) as sentence:
        assert sentence == ""


def test_asking_who_works_takes_no_lock_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = RunPaths(tmp_path)
    with held_by_another(paths):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        with monkeypatch.context() as patch:
            patch.setattr("fcntl.flock", lambda *_: 1 / 0)
            assert is_locked(paths)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_another_process_with_the_number_of_a_killed_driver_is_not_taken_for_it(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    with held_by_another(paths, "killed"):
        pass
    holder = json.loads((tmp_path / "run.lock.json").read_text())
    (tmp_path / "run.lock.json").write_text(json.dumps({**holder, "pid": os.getpid()}))
    assert not is_locked(paths)


def test_of_a_driver_on_another_machine_only_its_file_is_known(tmp_path: Path) -> None:
    (tmp_path / "run.lock.json").write_text('{"pid": 1, "host": "node7"}')
    holder = read_holder(RunPaths(tmp_path))
    assert holder is not None and str(holder) == "process 1 on node7" and not holder.here


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_still_has_one_driver(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    paths = RunPaths(tmp_path)
    with driver_lock(paths) as sentence:
        assert "This file system cannot lock files" in sentence and "remove that file" in sentence
        with pytest.raises(RunError, match="another cellsemi is working"), driver_lock(paths):
            pass
    with driver_lock(paths) as sentence:
        assert sentence


def test_an_error_of_the_driver_frees_the_run(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    with pytest.raises(ZeroDivisionError), driver_lock(paths):
        raise ZeroDivisionError
    assert not is_locked(paths) and not (tmp_path / "run.lock.json").exists()


def test_a_run_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "run.lock").mkdir()
    with pytest.raises(RunError, match=r"run\.lock: cannot be written"), driver_lock(RunPaths(tmp_path)):
        pass
