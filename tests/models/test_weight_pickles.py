"""Detectron2's .pkl files: arrays alone are read, and no code of the file is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cellsemi.configs.errors import ModelError
from cellsemi.models.weight_files import load_state


class _Program:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_a_program_is_refused(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.array(_Program(tmp_path / "ran"))}}, protocol))
    with pytest.raises(ModelError, match="mkdir"):
        load_state(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not numpy arrays by name alone"),
        (pickle.dumps({"model": {"a": np.zeros(3)}})[:-30], "not numpy arrays by name alone"),
        (pickle.dumps({"blobs": {}}), "it holds no arrays by name"),
        (pickle.dumps([1, 2]), "it holds no arrays by name"),
        (pickle.dumps({"model": {"a": 3}}), "no array of numbers"),
        (pickle.dumps({"model": {"a": np.array([None, 1])}}), "no array of numbers"),
    ],
)
def test_pickles_of_another_kind_are_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(ModelError, match=problem):
        load_state(tmp_path / "w.pkl")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_of_any_protocol_come_back_exactly(protocol: int, tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(4)}
    arrays = {name: value.numpy() for name, value in state.items()}
    for content in ({"model": arrays, "__author__": "x"}, {"blobs": arrays}, arrays):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
        found = load_state(tmp_path / "w.pkl")
        assert found.keys() == state.keys() and all(torch.equal(found[name], value) for name, value in state.items())
