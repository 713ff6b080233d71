"""Detectron2 is optional: where it is missing, the error says how to install it."""

from __future__ import annotations

import sys

import pytest

from cellsemi import models
from cellsemi.configs.errors import ModelError
from cellsemi.models.detectron2_maskrcnn.install import DETECTRON2_INSTALL
from cellsemi.models.registry import FAMILIES, family


def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("detectron2."):
            monkeypatch.delitem(sys.modules, name)
        elif name.startswith("cellsemi.models.detectron2"):
            monkeypatch.delitem(sys.modules, name)
            monkeypatch.delattr(models, name.rpartition(".")[2], raising=False)
    monkeypatch.setitem(sys.modules, "detectron2", None)


def test_a_missing_package_is_an_error_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without_package(monkeypatch)
    with pytest.raises(ModelError, match="not on the package index") as caught:
        family("detectron2-maskrcnn")
    assert DETECTRON2_INSTALL in str(caught.value) and "--no-build-isolation" in str(caught.value)


def test_the_table_of_families_is_read_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without_package(monkeypatch)
    assert FAMILIES["detectron2-maskrcnn"] == "cellsemi.models.detectron2_maskrcnn.family"
