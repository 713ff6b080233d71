"""The tiny network in the place of Cellpose-SAM's, in every test of this folder."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from cellpose import models as stock
from cellpose import utils as stock_utils
from helpers.tiny_cellpose import Tiny

from cellsemi.models import weight_files
from cellsemi.models.cellpose_sam import parts


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tiny instead of the network; an empty registry; nothing that fetches may be reached."""

    def fetched(*_: Any, **__: Any) -> None:
        raise AssertionError("something was about to be downloaded")

    monkeypatch.setenv(weight_files.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setattr(stock, "cache_model_path", fetched)
    monkeypatch.setattr(stock_utils, "download_url_to_file", fetched)
    monkeypatch.setattr(urllib.request, "urlopen", fetched)
    torch.set_num_threads(1)
    monkeypatch.setattr(parts, "build_net", Tiny)
