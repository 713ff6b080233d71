"""Fixtures of several test files."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("cellsemi", deadline=None)  # a slow machine is not a failure
settings.load_profile("cellsemi")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CELLSEMI_DEBUG", raising=False)
    return tmp_path
