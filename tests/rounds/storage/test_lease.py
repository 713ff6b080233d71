"""One driver at a time works on a run in a bucket: as a lock on a folder, with a lease."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.s3_server import BUCKET, S3Server, s3_server, use_server

from cellsemi.configs.errors import RunError
from cellsemi.rounds.storage import lease, object_store
from cellsemi.rounds.store import files
from cellsemi.rounds.store.lock import LockHolder, driver_lock, read_holder
from cellsemi.rounds.store.run import RunPaths

HOLD = """
    import os, signal, sys
    from cellsemi.rounds.store import files, lock, run
    with lock.driver_lock(run.RunPaths(files.place(sys.argv[1]))):
        print("held", flush=True)
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGKILL)
"""
ELSEWHERE = LockHolder(pid=1, host="node7", started="1", machine="another").model_dump_json().encode()


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def paths(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> RunPaths:
    use_server(server, tmp_path / "copies", monkeypatch)
    monkeypatch.setattr(lease, "PAUSE_S", 0.05)
    return RunPaths(files.place(f"s3://{BUCKET}/{request.node.name}"))


def claims(paths: RunPaths) -> list[str]:
    return [entry.address for entry in object_store.list_folder(str(paths.lock), fresh=True) if entry.is_file]


def test_a_second_driver_is_refused_and_named_while_the_first_lives_and_goes_on_when_it_is_killed(
    paths: RunPaths,
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(paths.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        holder = read_holder(paths)
        assert holder is not None and holder.pid == process.pid
        with (
            pytest.raises(RunError, match=rf"another cellsemi is working on this run \(process {process.pid} on"),
            driver_lock(paths),
        ):
            pass
        assert len(claims(paths)) == 1  # the refused one left nothing
        process.communicate("")
    assert process.returncode == -9
    assert read_holder(paths) is None and len(claims(paths)) == 1
    with driver_lock(paths):
        assert len(claims(paths)) == 1  # that of the killed process is gone
    assert claims(paths) == [] and read_holder(paths) is None


def test_a_driver_on_another_machine_is_waited_for_until_its_lease_has_expired(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_bytes(paths.lock / "other.json", ELSEWHERE)
    with pytest.raises(RunError, match=r"process 1 on node7\).*or, if it was killed, 60 s"), driver_lock(paths):
        pass
    monkeypatch.setattr(lease, "LEASE_S", 0.5)
    time.sleep(2.1)  # a store counts in whole seconds
    with driver_lock(paths):
        assert len(claims(paths)) == 1


def test_a_lease_is_renewed_and_lost_where_another_holds_the_run(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    with driver_lock(paths):
        files.write_text(paths.config, "a")
        (own,) = claims(paths)
        written = object_store.list_folder(str(paths.lock), fresh=True)[0].modified
        wait(lambda: object_store.list_folder(str(paths.lock), fresh=True)[0].modified != written)
        object_store.delete(own)  # as another driver does that found it expired
        wait(lambda: refused(paths))
    assert paths.config.read_text() == "a" and claims(paths) == []
    with driver_lock(paths):
        files.write_text(paths.config, "c")


def test_a_claim_beside_its_own_ends_a_driver(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    with driver_lock(paths):
        files.write_bytes(paths.lock / "other.json", ELSEWHERE)  # of one that asks: it is not renewed
        time.sleep(0.5)
        assert not refused(paths)
        wait(lambda: renewed_beside(paths))


def test_of_drivers_that_begin_together_at_most_one_works(paths: RunPaths) -> None:
    at_work, most, outcomes = 0, 0, []
    together, count = threading.Barrier(4), threading.Lock()

    def drive() -> None:
        nonlocal at_work, most
        together.wait()
        try:
            with driver_lock(paths):
                with count:
                    at_work += 1
                    most = max(most, at_work)
                time.sleep(0.3)
                with count:
                    at_work -= 1
            outcomes.append("worked")
        except RunError:
            outcomes.append("refused")

    threads = [threading.Thread(target=drive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 1 and len(outcomes) == 4


def renewed_beside(paths: RunPaths) -> bool:
    with contextlib.suppress(RunError):
        files.write_bytes(paths.lock / "other.json", ELSEWHERE)
    return refused(paths)


def refused(paths: RunPaths) -> bool:
    try:
        files.write_text(paths.root / "probe", "b")
    except RunError as error:
        assert "another cellsemi may work on the run now" in str(error)
        return True
    return False


def wait(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
