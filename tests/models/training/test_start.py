"""A student starts from the weights of its teacher, all of them, and says so."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import pictures
from helpers.pictures import quiet, record
from safetensors.torch import load

from cellsemi.configs.errors import ModelError
from cellsemi.configs.models import FlowUnetConfig
from cellsemi.configs.training import TrainingConfig
from cellsemi.models.base import FitTask
from cellsemi.models.flow_unet.family import FAMILY
from cellsemi.models.model_files import MODEL_FILE, WEIGHTS_FILE, StartWeights, read_model_file, read_weights
from cellsemi.rounds.store import files

TRAINING = TrainingConfig(steps=4, batch=2, crop_px=48, precision="float32", threads=1)
task_in = partial(pictures.task_in, model=FlowUnetConfig(name="m", width=6), training=TRAINING)


def fitted(folder: Path, **changes: object) -> tuple[FitTask, dict[str, torch.Tensor]]:
    task = task_in(folder, [record(1)], **changes)
    FAMILY.fit(task, quiet)
    return task, load(read_weights(Path(task.out_dir)))


def test_a_student_begins_where_its_teacher_ended(tmp_path: Path) -> None:
    teacher, weights = fitted(tmp_path / "teacher")
    still = TRAINING.model_copy(update={"lr": 1e-12, "ema": 0.0})
    _, student = fitted(tmp_path / "student", training=still, teacher=teacher.out_dir, seed=9)
    _, anew = fitted(tmp_path / "anew", training=still, seed=9)
    learnt = [name for name, value in weights.items() if value.is_floating_point() and "running" not in name]
    assert all(torch.allclose(student[name], weights[name], atol=1e-6) for name in learnt)
    assert not all(torch.allclose(anew[name], weights[name], atol=1e-2) for name in learnt)
    stated, alone = (read_model_file(tmp_path / name / "out") for name in ("student", "anew"))
    assert stated.teacher_sha256 == read_model_file(Path(teacher.out_dir)).weights_sha256
    assert alone.teacher_sha256 is None and stated.started_from is alone.started_from is None


def test_weights_from_outside_stay_known_through_the_teachers(tmp_path: Path) -> None:
    teacher, _ = fitted(tmp_path / "teacher")
    about = Path(teacher.out_dir) / MODEL_FILE
    outside = StartWeights(weights="cpsam.pth", sha256="a" * 64)
    files.write_json(about, {**files.read_json(about), "started_from": outside.model_dump(mode="json")})
    first, _ = fitted(tmp_path / "first", teacher=teacher.out_dir)
    fitted(tmp_path / "second", teacher=first.out_dir)
    assert read_model_file(tmp_path / "second" / "out").started_from == outside


def test_the_teacher_is_part_of_what_a_fit_is(tmp_path: Path) -> None:
    teacher, _ = fitted(tmp_path / "teacher")
    other, _ = fitted(tmp_path / "other", seed=5)
    task = task_in(tmp_path / "student", [record(1)])
    prints = {replace(task, teacher=each).fingerprint for each in (None, teacher.out_dir, other.out_dir)}
    assert len(prints) == 3


def test_weights_of_another_network_and_altered_ones_are_refused(tmp_path: Path) -> None:
    teacher, _ = fitted(tmp_path / "teacher")
    wide = FlowUnetConfig(name="m", width=8)
    with pytest.raises(ModelError, match="not the weights of the same network"):
        fitted(tmp_path / "wide", model=wide, teacher=teacher.out_dir)
    file = Path(teacher.out_dir) / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="altered"):
        fitted(tmp_path / "student", teacher=teacher.out_dir)
