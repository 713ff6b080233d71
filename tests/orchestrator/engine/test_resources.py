"""What workers reserve: GPUs where there are any and the work uses them, CPUs else."""

from __future__ import annotations

from typing import Any

import pytest

from cellsemi.configs.schema import EngineConfig
from cellsemi.orchestrator.engine.resources import WorkerResources, resources_per_worker


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
