"""`flow-unet` goes on from a model of an earlier run, and from no other."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import pictures
from helpers.pictures import discs, quiet, record
from safetensors.torch import load, save_file

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.training import InferenceConfig, TrainingConfig
from cellsemi.models.base import FitTask
from cellsemi.models.flow_unet.family import FAMILY
from cellsemi.models.model_files import WEIGHTS_FILE, read_model_file, read_weights
from cellsemi.models.weight_files import HOME_VARIABLE

STILL = TrainingConfig(batch=2, crop_px=48, lr=1e-12, ema=0.0, precision="float32", threads=1)
task_in = partial(pictures.task_in, training=STILL)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))


def fitted(folder: Path, **changes: Any) -> FitTask:
    given = {"classes": ("a", "b"), **changes}
    settings = {"name": "m", "width": 6, **given.pop("model", {})}
    task = task_in(folder, [record(1)], 1, model=FlowUnetConfig.model_validate(settings), **given)
    FAMILY.fit(task, quiet)
    return task


def learnt(task: FitTask) -> dict[str, torch.Tensor]:
    found = load(read_weights(Path(task.out_dir)))
    return {name: value for name, value in found.items() if "running" not in name and "batches" not in name}


@pytest.mark.parametrize("alone", [False, True])
def test_it_begins_where_the_earlier_model_ended(alone: bool, tmp_path: Path) -> None:
    first = fitted(tmp_path / "first", seed=3)
    weights = Path(first.out_dir)
    if alone:
        weights = tmp_path / "moved.safetensors"
        weights.write_bytes((Path(first.out_dir) / WEIGHTS_FILE).read_bytes())
    second = fitted(tmp_path / "second", model={"weights": str(weights)}, seed=9)
    before, after = learnt(first), learnt(second)
    assert all(torch.allclose(value, after[name], atol=1e-6) for name, value in before.items())
    about = read_model_file(Path(second.out_dir))
    assert (
        about.started_from is not None
        and about.started_from.sha256 == read_model_file(Path(first.out_dir)).weights_sha256
    )
    assert about.started_from.random == () and about.teacher_sha256 is None
    third = fitted(tmp_path / "third", model={"weights": str(weights)}, teacher=second.out_dir)
    assert read_model_file(Path(third.out_dir)).started_from == about.started_from
    assert FAMILY.load(Path(third.out_dir), InferenceConfig(), "cpu").predict([discs(1)[0]])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": {"width": 8}}, r"width is 6 there and 8 here\): decoder\.0\.body\.0\.weight .*of another shape"),
        ({"model": {"depth": 3}}, r"depth is 4 there and 3 here\): decoder\.2\.body.* unexpected"),
        ({"classes": ("b", "a")}, "its classes are a, b, the run's are b, a"),
        ({"classes": ("a",)}, "its classes are a, b, the run's are a"),
    ],
)
def test_what_differs_is_named(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    first = fitted(tmp_path / "first")
    model = {**changes.pop("model", {}), "weights": first.out_dir}
    with pytest.raises(ModelError, match=problem):
        fitted(tmp_path / "second", model=model, **changes)


def test_a_file_of_another_number_of_classes_and_of_another_network_are_refused(tmp_path: Path) -> None:
    first = fitted(tmp_path / "first", classes=("a", "b", "c"))
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes((Path(first.out_dir) / WEIGHTS_FILE).read_bytes())
    with pytest.raises(ModelError, match=r"number of data\.classes\): head\.bias \(\[24\] given, \[20\] wanted\)"):
        fitted(tmp_path / "second", model={"weights": str(moved)})
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="x unexpected"):
        fitted(tmp_path / "third", model={"weights": str(tmp_path / "other.safetensors")})


def test_the_weights_are_part_of_what_a_fit_is(tmp_path: Path) -> None:
    first = fitted(tmp_path / "first")
    again = fitted(tmp_path / "second", model={"weights": "nowhere"}, weights=first.out_dir)
    assert read_model_file(Path(again.out_dir)).started_from is not None, "the run's copy stands for the name"
    import dataclasses

    assert dataclasses.replace(again, weights_sha256="0" * 64).fingerprint != again.fingerprint
