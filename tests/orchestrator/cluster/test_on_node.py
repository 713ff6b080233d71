"""What a node answers: each fault is made here, and found with its remedy."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from cellsemi.configs.loading import load_config
from cellsemi.orchestrator.cluster import on_node
from cellsemi.orchestrator.cluster.findings import Finding
from cellsemi.orchestrator.engine.ray_start import Probe
from cellsemi.rounds.store.lock import driver_lock
from cellsemi.rounds.store.run import RunPaths

Usage = namedtuple("Usage", "total used free")
CONFIG = load_config("demo", []).config


def request(folder: Path, token: str = "abc", written: str = "abc") -> on_node.Request:
    (folder / "probe").write_text(written)
    return on_node.Request(str(folder), Probe(str(folder / "probe"), token), CONFIG, ())


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_a_node_in_order_answers_every_question_and_leaves_nothing(tmp_path: Path) -> None:
    asked = request(tmp_path)
    with driver_lock(RunPaths(tmp_path)):
        found = by_check(on_node.look(asked))
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert set(found) == {"disk for temporary files", "run folder", "disk for the run", "fsync", "lock", "models"}
    assert found["models"].found == "flow-unet" and (found["fsync"].value or 0) > 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("fsync")]


def test_another_folder_is_named_and_nothing_more_is_tried_in_it(tmp_path: Path) -> None:
    found = by_check(on_node.look(request(tmp_path, written="of another run")))
    assert found["run folder"].problem == f"sees another {tmp_path} than the driver"
    assert "run.root=FOLDER" in found["run folder"].remedy
    assert not {"fsync", "lock", "disk for the run"} & set(found)


def test_a_lock_that_keeps_nobody_out_is_a_fault(tmp_path: Path) -> None:
    open_to_all = on_node.lock_finding(tmp_path)  # nobody holds it here, as where locks stay on their own host
    assert open_to_all.verdict == "failed" and "two drivers could work on one run" in open_to_all.problem
    with driver_lock(RunPaths(tmp_path)):
        assert on_node.lock_finding(tmp_path).verdict == "ok"


@pytest.mark.parametrize(
    ("total", "free", "words"),
    [
        (100e9, 50e9, ""),
        (100e9, 400e6, "0.4 GB free"),  # less than the 512 MB of engine.min_free_mb
        (1000e9, 40e9, "more than 95% full"),
    ],
)
def test_a_full_disk_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: float, free: float, words: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(int(total), int(total - free), int(free)))
    found = on_node.disk_finding(tmp_path, "temporary files", 512)
    assert bool(found.problem) == bool(words) and words in found.words
    assert bool(found.remedy) == bool(words)
    assert on_node.disk_finding(tmp_path, "the run", 512).verdict == ("failed" if "0.4" in words else "ok")


def test_slow_storage_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ticks = iter(range(0, 100, 3))  # a clock on which each write takes three seconds
    monkeypatch.setattr(on_node.time, "perf_counter", lambda: float(next(ticks)))
    found = on_node.fsync_finding(tmp_path)
    assert found.words == "3000 ms for a small file" and "shard_images" in found.remedy


def test_weights_are_compared_with_what_the_driver_sees(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    content = bytes(range(256)) * 10_000  # 2.56 MB: there is a middle that is not read
    path.write_bytes(content)
    seen = on_node.kept_file(path)
    assert on_node.weights_finding(seen).verdict == "ok"
    for other in (content[:-1], content[:-1] + b"x", b"x" + content[1:]):
        path.write_bytes(other)
        assert on_node.weights_finding(seen).verdict == "failed"
    path.unlink()
    assert "No such file" in on_node.weights_finding(seen).problem


def test_a_model_whose_masks_are_not_there_is_a_fault(tmp_path: Path) -> None:
    models = f"[{{name: unet}}, {{kind: masks, name: given, folder: {tmp_path / 'none'}}}]"
    lacking = load_config("demo", [f"models={models}"]).config
    found = on_node.models_finding(lacking)
    assert "there is no such file or folder" in found.problem and found.remedy


def test_the_files_of_other_nodes_are_seen_or_named(tmp_path: Path) -> None:
    assert on_node.write_for_others(tmp_path, "one", "abc") == ""
    assert on_node.write_for_others(tmp_path, "two", "of an earlier check") == ""
    assert on_node.unseen(tmp_path, ["one", "two", "three"], "abc") == ["two", "three"]
    assert "one" in on_node.write_for_others(tmp_path / "node-one", "one", "abc")  # a file in the place of the folder


def test_the_versions_change_with_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cellsemi.configs

    first = on_node.versions_by_value()()
    assert first == on_node.versions_by_value()() and all(first)
    copied = tmp_path / "configs"
    shutil.copytree(next(iter(cellsemi.configs.__path__)), copied)
    (copied / "zz_other.py").write_text("x = 1\n")
    assert first[3] != _digest_with(monkeypatch, copied)


def _digest_with(monkeypatch: pytest.MonkeyPatch, configs: Path) -> str:
    """The digest where cellsemi.configs lies in another folder."""
    import importlib.util
    from importlib.machinery import ModuleSpec

    real = importlib.util.find_spec

    def find_spec(name: str) -> ModuleSpec | None:
        spec = real(name)
        if name == "cellsemi.configs" and spec is not None:
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(configs)]
        return spec

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return on_node.versions_by_value()()[3]


def test_a_gpu_that_ray_counts_and_torch_does_not_see_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    found = on_node.look_at_gpu()
    assert found.verdict == "failed" and "is built without CUDA" in found.problem and "NVIDIA driver" in found.remedy
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "for CUDA 13.0 finds none" in on_node.look_at_gpu().problem


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.0, "NVIDIA H100, driver 550.54.15, torch "), (2.0, "computes wrongly: 2048 in place of 512")],
)
def test_a_gpu_is_trusted_when_it_computes_what_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: float, words: str
) -> None:
    import torch

    full, script = torch.full, tmp_path / on_node.DRIVER_SCRIPT
    script.write_text("#!/bin/sh\necho 550.54.15\necho 550.54.15\n")  # a line for each GPU
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(torch, "ones", lambda *shape, device: full(shape, value))
    found = on_node.look_at_gpu()
    assert words in found.words and bool(found.problem) == (value != 1.0)


def test_a_gpu_that_cannot_compute_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def broken(*_: int, device: str) -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error\nencountered")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", broken)
    assert (
        on_node.look_at_gpu().problem == "cannot compute: RuntimeError: CUDA error: uncorrectable ECC error encountered"
    )
