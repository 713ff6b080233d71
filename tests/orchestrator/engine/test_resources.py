"""What workers reserve: GPUs where there are any and the work uses them, CPUs else."""

from __future__ import annotations

from typing import Any

import pytest

from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.resources import WorkerResources, idle_cpus, in_the_way, resources_per_worker


@pytest.mark.parametrize(
    ("settings", "uses_device", "gpus_there", "gpus", "hidden"),
    [
        ({}, True, 4.0, 1.0, False),
        ({}, True, 0.0, 0.0, True),
        ({}, False, 4.0, 0.0, True),
        ({"gpus_per_worker": 0.25}, True, 1.0, 0.25, False),
        ({"gpus_per_worker": 0.25}, False, 1.0, 0.0, True),
        ({"gpus_per_worker": 0}, True, 4.0, 0.0, True),
        ({"gpus_per_worker": 0, "device": "cuda"}, True, 4.0, 0.0, False),
        ({"device": "cpu"}, True, 4.0, 0.0, True),
    ],
)
def test_gpus_are_reserved_where_they_help(
    settings: dict[str, Any], uses_device: bool, gpus_there: float, gpus: float, hidden: bool
) -> None:
    found = resources_per_worker(EngineConfig(cpus_per_worker=2, **settings), uses_device, gpus_there)
    assert found == WorkerResources(2.0, gpus, hidden)


def test_a_node_holds_as_many_as_its_scarcest_resource_allows() -> None:
    node = {"CPU": 16.0, "GPU": 2.0}
    assert WorkerResources(1, 0, True).workers_on(node) == 16
    assert WorkerResources(1, 1, False).workers_on(node) == 2
    assert (
        WorkerResources(1, 0.1, False).workers_on(node) == 16 and WorkerResources(1, 0.25, False).workers_on(node) == 8
    )
    assert (
        WorkerResources(1, 1, False).workers_on({"CPU": 8.0}) == 0
        and WorkerResources(32, 0, True).workers_on(node) == 0
    )


def test_resources_read_as_people_write_them() -> None:
    assert str(WorkerResources(1, 0.5, False)) == "1 CPU and 0.5 GPUs"


CPU = WorkerResources(1, 0, hide_gpus=True)
GPU = WorkerResources(1, 1, hide_gpus=False)


def test_a_process_with_a_gpu_also_does_work_that_needs_none() -> None:
    assert GPU.serves(GPU) and GPU.serves(CPU) and CPU.serves(CPU)
    assert not CPU.serves(GPU) and not WorkerResources(2, 1, hide_gpus=False).serves(CPU)


@pytest.mark.parametrize(
    ("nodes", "busy", "idle", "asked", "need", "ending"),
    [
        # room for all
        ({"a": (8, 2)}, [], [("a", CPU)] * 6, GPU, 2, []),
        # the GPUs are free, the CPUs are not: as few as needed end
        ({"a": (8, 2)}, [], [("a", CPU)] * 8, GPU, 2, [0, 1]),
        ({"a": (8, 2)}, [("a", GPU)], [("a", CPU)] * 7, GPU, 1, [0]),
        # a GPU is held: its process ends, and those without stay
        ({"a": (8, 1)}, [], [("a", CPU)] * 7 + [("a", GPU)], GPU, 1, [7]),
        # where CPUs alone are lacking, those without a GPU end first
        ({"a": (4, 1)}, [], [("a", WorkerResources(2, 1, False)), *[("a", CPU)] * 2], WorkerResources(2, 0, True), 1,
         [1, 2]),
        # a node that has no GPU gives none; a node that is gone holds nothing
        ({"a": (2, 0), "b": (2, 1)}, [], [("a", CPU), ("a", CPU), ("b", CPU), ("b", CPU), ("c", CPU)], GPU, 3, [2]),
        # nothing helps: the workers that run hold it
        ({"a": (2, 1)}, [("a", GPU)], [("a", CPU)], GPU, 1, []),
    ],
)  # fmt: skip
def test_only_what_holds_what_is_lacking_ends(
    nodes: dict[str, tuple[int, int]],
    busy: list[tuple[str, WorkerResources]],
    idle: list[tuple[str, WorkerResources]],
    asked: WorkerResources,
    need: int,
    ending: list[int],
) -> None:
    there = {name: {"CPU": float(cpus), "GPU": float(gpus)} for name, (cpus, gpus) in nodes.items()}
    assert in_the_way(there, busy, idle, asked, need) == ending


@pytest.mark.parametrize(
    ("ranks", "students", "each"),
    [
        (1, 1, 96.0),  # nobody else is there
        (1, 3, 32.0),
        (1, 64, 12.0),  # as many at once as GPUs
        (4, 3, 48.0),  # two of four GPUs at once
        (16, 1, 96.0),  # does not fit; that is said elsewhere
    ],
)
def test_students_find_the_cpus_that_others_leave_them(ranks: int, students: int, each: float) -> None:
    student = WorkerResources(1, 1, False).times(ranks)
    assert (student.cpus, student.gpus) == (ranks, ranks)
    assert student.cpus_for_each({"CPU": 96.0, "GPU": 8.0}, students) == each


@pytest.mark.parametrize(
    ("steps", "threads", "cpus", "at_once", "found"),
    [
        ([500], [1], 2.0, 1, [1]),
        ([350, 350], [1, 1], 1.0, 2, [0, 0]),
        ([2000, 550], [1, 1], 1.0, 2, [1, 0]),  # the second CPU is idle for three quarters of the time
        ([2000, 1500], [1, 1], 1.0, 2, [0, 0]),
        ([2000, 550, 550], [1, 1, 1], 1.0, 2, [0, 0, 0]),  # the third takes the place of the second
        ([9, 9], [4, 4], 12.0, 2, [8, 8]),
        ([9, 1], [4, 4], 2.0, 2, [0, 0]),  # more threads than CPUs
        ([], [], 2.0, 0, []),
    ],
)
def test_idle_cpus_go_to_the_longest_student(
    steps: list[int], threads: list[int], cpus: float, at_once: int, found: list[int]
) -> None:
    assert idle_cpus(steps, threads, cpus, at_once) == found
