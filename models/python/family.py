"""Describes `python`: a family of the user's own, which a module or an installed package holds (docs/teachers.md)."""

from __future__ import annotations

from pathlib import Path

from cellsemi.configs.models import PythonConfig
from cellsemi.configs.training import InferenceConfig
from cellsemi.models.base import Family, FitResult, FitTask, Predictor, Progress, config_of
from cellsemi.models.given import take_nothing
from cellsemi.models.model_files import read_model_file
from cellsemi.models.own_family import code_in, kept_code, own_family
from cellsemi.rounds.store import files


def _fit(task: FitTask, progress: Progress) -> FitResult:
    model, folder = config_of(task.model, PythonConfig), files.place(task.out_dir)
    code = code_in(folder, task.code)
    return own_family(model, code).fit(task, progress)


def _take(task: FitTask) -> FitResult:
    model, folder = config_of(task.model, PythonConfig), files.place(task.out_dir)
    take = own_family(model, code_in(folder, task.code)).take or take_nothing
    return take(task)


def _load(folder: Path, inference: InferenceConfig, device: str) -> Predictor:
    model = config_of(read_model_file(folder).model, PythonConfig)
    return own_family(model, kept_code(folder)).load(folder, inference, device)


FAMILY = Family(
    config=PythonConfig,
    variants=(),
    start="either",
    packages=(),
    code_licence="that of the family",
    weights_licence="as the family states",
    fit=_fit,
    load=_load,
    take=_take,
)
