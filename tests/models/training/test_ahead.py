"""Batches that are made ahead in processes are those that the training would make, and no process is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.pictures import quiet, record, task_in
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cellsemi.configs.errors import DataError
from cellsemi.configs.models import FlowUnetConfig, MaskRcnnConfig
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.crops.cell_size import CellSize
from cellsemi.models.crops.source import CropSource
from cellsemi.models.detector.targets import DetectorBatches
from cellsemi.models.flow.batch import FlowBatches
from cellsemi.models.flow_unet.family import FAMILY
from cellsemi.models.model_files import read_weights
from cellsemi.models.torchvision_maskrcnn.centre_boundary import map_makers
from cellsemi.models.training import ahead
from cellsemi.models.training.transport import Packed, each

CPU = torch.device("cpu")
TRAINING = TrainingConfig(steps=6, batch=2, crop_px=48, precision="float32")


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes start for any number of steps."""
    monkeypatch.setattr(ahead, "FEW_STEPS", 0)


@dataclass(frozen=True, slots=True)
class Pair:
    """A batch of a family might look like this."""

    first: Any
    second: Any


DTYPES = (torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool, torch.bfloat16)
TENSORS = st.builds(
    lambda shape, dtype, seed: torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(seed)).to(dtype),
    st.lists(st.integers(0, 5), max_size=4),
    st.sampled_from(DTYPES),
    st.integers(0, 9),
)


def nodes(node: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What batches are made of, one level up."""
    tables = st.dictionaries(st.text(max_size=3), node, max_size=3)
    return st.one_of(st.lists(node, max_size=3), tables, st.builds(Pair, node, node), st.tuples(node, node))


TREES = st.recursive(st.one_of(TENSORS, st.integers(), st.text(max_size=3)), nodes, max_leaves=8)


def tensors_of(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    each(tree, Tensor, found.append)
    return found


@given(TREES)
def test_a_packed_batch_is_the_batch(tree: Any) -> None:
    packed = Packed.of(tree)
    back = packed.batch(CPU)
    before, after = tensors_of(tree), tensors_of(back)
    assert [(t.dtype, t.shape) for t in before] == [(t.dtype, t.shape) for t in after]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert each(tree, Tensor, lambda _: None) == each(back, Tensor, lambda _: None)


def test_a_tensor_in_another_order_of_memory_keeps_its_values() -> None:
    turned = torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last)
    assert torch.equal(Packed.of([turned]).batch(CPU)[0], turned)


def flow_batches(folder: Path) -> FlowBatches:
    task = task_in(folder, [record(0), record(1)], model=FlowUnetConfig(name="m"), training=TRAINING)
    return FlowBatches(CropSource.of(task, FlowUnetConfig(name="m").augment, CellSize()), "geodesic")


def detector_batches(folder: Path) -> DetectorBatches:
    model = MaskRcnnConfig(name="m")
    task = task_in(folder, [record(0), record(1)], model=model, training=TRAINING)
    source = CropSource.of(task, model.augment, CellSize(), channels=3)
    return DetectorBatches(source, 1.5, map_makers(centre=True, boundary=True, sigma_px=2.0))


@pytest.mark.parametrize("make_batches", [flow_batches, detector_batches])
def test_any_number_of_processes_makes_the_same_batches_in_order(
    make_batches: Callable[[Path], Any], tmp_path: Path
) -> None:
    made = make_batches(tmp_path)
    in_line = list(ahead.batches(made, range(3, 8), 0, CPU))
    for processes in (1, 3):
        found = list(ahead.batches(made, range(3, 8), processes, CPU))
        assert len(found) == len(in_line) == 5
        for one, other in zip(in_line, found, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(tensors_of(one), tensors_of(other), strict=True))
            assert type(one) is type(other)


def refuse(step: int) -> Any:
    if step == 2:
        raise DataError("row 7: cells in the state ['x'] cannot train, filter them first")
    return torch.tensor([step])


@pytest.mark.parametrize("processes", [0, 1])
def test_an_error_in_a_process_is_the_same_as_without(processes: int) -> None:
    made = ahead.batches(refuse, range(5), processes, CPU)
    assert [int(next(made)), int(next(made))] == [0, 1]
    with pytest.raises(DataError, match=r"^row 7: cells in the state \['x'\] cannot train, filter them first$"):
        next(made)


def test_how_many_processes_there_are(tmp_path: Path) -> None:
    task = task_in(tmp_path, [record(0)], model=FlowUnetConfig(name="m"), training=TRAINING)
    found = [
        ahead.processes_for(replace(task, input_processes=stated, idle_cpus=idle), torch.device(device))
        for stated, idle, device in [(None, 0, "cpu"), (None, 1, "cpu"), (None, 30, "cpu"), (None, 30, "cuda"),
                                     (0, 30, "cuda"), (5, 0, "cpu")]
    ]  # fmt: skip
    assert found == [0, 1, ahead.MOST["cpu"], ahead.MOST["cuda"], 0, 5]


def test_a_fit_with_processes_that_was_interrupted_ends_with_the_bits_of_one_without(tmp_path: Path) -> None:
    task = task_in(tmp_path, [record(0), record(1)], model=FlowUnetConfig(name="m", width=4), training=TRAINING)
    FAMILY.fit(task, quiet)
    again = replace(task, out_dir=str(tmp_path / "again"), input_processes=2, checkpoint_s=0)
    assert again.fingerprint == task.fingerprint

    def interrupt(step: int, steps: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FAMILY.fit(again, interrupt)
    assert FAMILY.fit(again, quiet).resumed_at == 3
    assert read_weights(tmp_path / "again") == read_weights(tmp_path / "out")


@pytest.mark.parametrize(("free_mb", "made_by"), [(1, 0), (10_000, 1)])
def test_small_shared_memory_means_fewer_processes_and_not_a_crash(
    free_mb: int, made_by: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A container has 64 MB of it, unless somebody asked for more; what lies beyond it kills a process."""
    found: list[int] = []

    def started(make: Any, steps: range, processes: int, pin: bool) -> Any:
        found.append(processes)
        return (Packed.of(make(step)) for step in steps)

    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=free_mb * 2**20))
    monkeypatch.setattr(ahead, "_started", started)
    made = list(ahead.batches(lambda step: torch.full((2**18,), step), range(4), 1, CPU))
    assert [int(each[0]) for each in made] == [0, 1, 2, 3]
    assert found == [made_by] * made_by
    assert ("--shm-size" in caplog.text) == (made_by == 0)


SCRIPT = """
import torch
from cellsemi.models.training import ahead

print("started")  # a second time, if a process ran this script again: it has no guard
made = ahead.batches(torch.zeros, range(1, 1000), 2, torch.device("cpu"))
next(made), next(made)  # the first one is made by the training
print("made", flush=True)
import time
time.sleep(600)
"""


def test_processes_do_not_run_the_users_script_and_end_with_a_training_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as p:
        assert p.stdout is not None
        said = [p.stdout.readline().strip() for _ in range(2)]
        running = len(in_session(p.pid))
        p.send_signal(signal.SIGKILL)
    assert said == ["started", "made"] and running > 2
    deadline = time.monotonic() + 60
    while in_session(p.pid) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not in_session(p.pid)


def in_session(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(place.name)) == session and place.joinpath("stat").read_text().split()[2] != "Z":
                found.append(int(place.name))
        except (ProcessLookupError, FileNotFoundError):
            continue
    return found
