"""The engine in this process: the same rules as on Ray, seen without Ray."""

import logging
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from cellsemi.configs.errors import EngineError, ImageError, RunError, TrainingDiverged, in_one_line
from cellsemi.configs.schema import EngineConfig
from cellsemi.models.inference.less_memory import halvings
from cellsemi.orchestrator.engine.fault import Fault, attempt
from cellsemi.orchestrator.engine.inline import InlineEngine
from cellsemi.orchestrator.engine.open import open_engine
from cellsemi.orchestrator.engine.protocol import Failure, Incident, Record
from cellsemi.orchestrator.engine.usage import Seconds, Usage

ENGINE = InlineEngine(EngineConfig(kind="inline", max_attempts=3))


@dataclass
class Squares:
    """Squares its items. `trouble`: which items raise what, until they are run for the time `until`."""

    trouble: dict[int, BaseException]
    until: int = 99
    bad_starts: int = 0
    start_error: Exception | None = None
    name: str = "squares"
    uses_device: bool = True
    starts: list[int] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)

    def start(self) -> "Squares":
        self.starts.append(1)
        if len(self.starts) <= self.bad_starts:
            raise self.start_error or OSError("no device")
        return self

    def run(self, item: int) -> Record:
        self.runs.append(item)
        if item in self.trouble and self.runs.count(item) < self.until:
            raise self.trouble[item]
        return {"square": item * item}


def carry_out(job: Squares, items: list[int], how: str = "map") -> Any:
    seen: list[Any] = []
    outcome = getattr(ENGINE, how)(
        job, items, lambda item, record: seen.append((item, record)), lambda: seen.append("tick")
    )
    assert sorted(entry for entry in seen if entry != "tick") == sorted(outcome.done.items())
    assert seen.count("tick") == len(job.runs)
    return outcome


def test_map_starts_once_and_does_all_in_order() -> None:
    job = Squares({})
    outcome = carry_out(job, [3, 1, 2])
    assert outcome.done == {1: {"square": 1}, 2: {"square": 4}, 3: {"square": 9}} and outcome.failed == ()
    assert job.runs == [3, 1, 2] and len(job.starts) == 1


def test_tasks_start_anew_for_each_item() -> None:
    job = Squares({})
    assert sorted(carry_out(job, [3, 1, 2], "tasks").done) == [1, 2, 3]
    assert job.runs == [3, 1, 2] and len(job.starts) == 3


def test_nothing_to_do_starts_nothing() -> None:
    job = Squares({})
    assert carry_out(job, []).done == {} and job.starts == []


@pytest.mark.parametrize("how", ["map", "tasks"])
def test_an_error_is_tried_again(how: str) -> None:
    job = Squares({2: OSError("stale file handle")}, until=3)
    outcome = carry_out(job, [1, 2, 3], how)
    assert sorted(outcome.done) == [1, 2, 3] and job.runs.count(2) == 3


@dataclass
class Hungry(Squares):
    """Needs a quarter of the memory."""

    def run(self, item: int) -> Record:
        if halvings() < 2:
            raise MemoryError
        return {"square": item * item}


def test_an_item_that_runs_out_of_memory_gets_along_with_less_and_it_is_told() -> None:
    told: list[Incident] = []
    outcome = ENGINE.map(Hungry({}), [2, 3], lambda *_: None, lambda: None, told.append)
    assert outcome.done == {2: {"square": 4}, 3: {"square": 9}} and halvings() == 0
    assert [(incident.kind, incident.item) for incident in told] == [("retried", 2), ("retried", 3)] * 2


def test_what_is_told_before_the_run_ends_is_told() -> None:
    told: list[Incident] = []
    with pytest.raises(RunError):
        ENGINE.map(
            Squares({1: OSError("gone"), 2: RunError("full")}), [1, 2], lambda *_: None, lambda: None, told.append
        )
    assert [incident.kind for incident in told] == ["retried"]


@pytest.mark.parametrize("how", ["map", "tasks"])
def test_an_item_that_always_fails_is_reported_with_the_last_error(how: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        outcome = carry_out(Squares({2: ValueError("bad\n  tensor")}), [1, 2, 3], how)
    assert sorted(outcome.done) == [1, 3]
    assert outcome.failed == (Failure(2, 3, "ValueError: bad tensor"),)
    assert caplog.text.count("Traceback") == 3  # the whole story is in the log


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImageError("a.tif", "cut off"), "ImageError: a.tif: cut off"),
        (TrainingDiverged("loss is nan at step 7"), "TrainingDiverged: loss is nan at step 7"),
    ],
)
def test_an_error_of_ours_is_final(error: Exception, words: str) -> None:
    job = Squares({2: error})
    assert carry_out(job, [1, 2, 3]).failed == (Failure(2, 1, words),)
    assert job.runs == [1, 2, 3]


def test_a_full_disk_stops_the_run() -> None:
    job = Squares({2: RunError("disk: no space left")})
    with pytest.raises(RunError, match=r"^disk: no space left$"):
        carry_out(job, [1, 2, 3])
    assert 3 not in job.runs


def test_starting_is_tried_three_times() -> None:
    job = Squares({}, bad_starts=2)
    assert sorted(carry_out(job, [1, 2]).done) == [1, 2]
    with pytest.raises(
        EngineError, match="squares: workers failed to start 3 times in a row; last: OSError: no device"
    ):
        carry_out(Squares({}, bad_starts=3), [1, 2])


def test_a_start_that_fails_for_a_known_reason_stops_at_once() -> None:
    job = Squares({}, bad_starts=1, start_error=TrainingDiverged("no weights"))
    with pytest.raises(EngineError, match="squares: a worker could not start: no weights"):
        carry_out(job, [1, 2])
    assert len(job.starts) == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(3)])
def test_being_stopped_is_no_error_of_an_item(stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        carry_out(Squares({2: stop}), [1, 2, 3])


def test_an_error_of_the_caller_is_not_taken_for_one_of_the_job() -> None:
    def broken(item: int, record: Record) -> None:
        raise ZeroDivisionError(f"{item}")

    with pytest.raises(ZeroDivisionError, match="1"):
        ENGINE.map(Squares({}), [1, 2], broken, lambda: None)


def test_open_engine_obeys_the_config_and_what_comes_before_it(tmp_path: Path) -> None:
    for config, kind in ((EngineConfig(kind="inline"), None), (EngineConfig(), "inline")):
        with open_engine(config, tmp_path / "run.log", kind=kind) as engine:
            assert engine.describe() == "in-process"


def test_the_engine_in_this_process_needs_no_ray(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.open import open_engine
open_engine(EngineConfig(kind="inline"), Path(sys.argv[1])).close()
sys.exit("ray" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "run.log")], check=False).returncode == 0


def test_a_fault_holds_what_a_person_and_a_log_need() -> None:
    assert attempt(lambda: {"a": 1}) == {"a": 1}
    fault = attempt(lambda: {}["key"])
    assert isinstance(fault, Fault) and fault.kind == "retry"
    assert fault.error == "KeyError: 'key'" and "Traceback" in fault.trace
    assert in_one_line(KeyError()) == "KeyError" and in_one_line(" a\n b ") == "a b"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("shapes differ"), "retry"),
        (ImageError("a.tif", "cut off"), "final"),
        (RunError("disk full"), "stop"),
    ],
)
def test_the_kind_of_a_fault(error: Exception, kind: str) -> None:
    def fail() -> None:
        raise error

    fault = attempt(fail)
    assert isinstance(fault, Fault) and fault.kind == kind


def test_torch_still_says_so_when_memory_runs_out() -> None:
    fault = attempt(lambda: torch.empty(1 << 60))
    assert isinstance(fault, Fault) and fault.kind == "memory"


def test_what_the_one_worker_used_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("cellsemi.orchestrator.engine.inline.time.monotonic", lambda: now[0])

    class Slow(Squares):
        def start(self) -> "Squares":
            now[0] += 2.0
            return super().start()

        def run(self, item: int) -> Record:
            now[0] += 3.0
            return super().run(item)

    engine = InlineEngine(EngineConfig(kind="inline", max_attempts=3))
    assert engine.take_usage() == Usage(nodes={})
    engine.map(Slow({2: ValueError("once")}, until=2), [1, 2, 3], lambda *_: None, lambda: None)
    now[0] += 50.0  # nothing is held between two jobs
    used = engine.take_usage()
    assert used == Usage(Seconds(14.0, starting=2.0, computing=9.0, lost=3.0), nodes={})
    assert engine.take_usage() == Usage(nodes={})
