"""What a node is asked before it gets work: the run's folder, room, what is installed, a GPU."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from cellsemi.orchestrator.engine.node_check import LOCAL_FREE_MB, PRETEND_GPUS, NodeCheck, versions_here
from cellsemi.orchestrator.engine.ray_start import Probe


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    (tmp_path / "probe").write_text("abc")
    return Probe(str(tmp_path / "probe"), "abc")


def test_a_node_that_can_work_has_no_problem(probe: Probe) -> None:
    check = NodeCheck(probe, versions_here())
    assert (check.problem(), check.start_problem()) == ("", "")


def test_a_node_without_the_mount_is_told_where_the_run_should_lie(probe: Probe) -> None:
    Path(probe.path).unlink()
    assert NodeCheck(probe).problem().endswith("Put the run on storage that all nodes see: --set run.root=FOLDER")
    assert "cannot work in" in NodeCheck(probe).problem()


@pytest.mark.parametrize("full", ["tmp", "ray"])
def test_a_full_local_disk_is_named(probe: Probe, full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {name: str(tmp_path / name) for name in ("tmp", "ray")}
    free = {folders[name]: (LOCAL_FREE_MB - (name == full)) << 20 for name in folders}
    monkeypatch.setattr("tempfile.gettempdir", lambda: folders["tmp"])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**12, 0, free[folder]))
    problem = NodeCheck(probe, ray_folder=folders["ray"]).problem()
    assert problem.startswith(f"{folders[full]} is full: {LOCAL_FREE_MB - 1} MB are free, {LOCAL_FREE_MB} are needed")
    assert NodeCheck(None, ray_folder=folders["ray"]).problem() == ""  # our own Ray


@pytest.mark.parametrize("name", ["cellsemi", "ray", "Python"])
def test_other_versions_than_those_of_the_driver_are_named(name: str) -> None:
    here = versions_here()
    problem = NodeCheck(versions={**here, name: "0.0"}).start_problem()
    assert problem.startswith(
        f"other versions than the driver's: {name} {here[name]}, the driver has 0.0; use one image"
    )


@pytest.mark.parametrize(("cuda", "words"), [(None, "is built without CUDA"), ("13.0", "(CUDA 13.0) finds no GPU")])
def test_a_reserved_gpu_has_to_be_there(cuda: str | None, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PRETEND_GPUS, raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", cuda)
    assert words in NodeCheck(cuda=True).start_problem()
    assert NodeCheck(cuda=False).start_problem() == ""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert NodeCheck(cuda=True).start_problem() == ""
