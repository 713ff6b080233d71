"""Fixtures of several test files."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("cellsemi", deadline=None)  # a slow machine is not a failure
settings.load_profile("cellsemi")
# Ray starts its workers at nice 15, where tests beside them would leave them nothing of two cores.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(autouse=True)
def no_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No page is drawn after each round of a run by a command: that takes seconds; the marker `pages` draws them."""
    if "pages" not in request.keywords:
        from cellsemi.orchestrator.runs import page_process

        monkeypatch.setattr(page_process._Beside, "begin", lambda self: None)


@pytest.fixture(autouse=True)
def no_trackers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tracker is told of the runs of tests, which takes a second; the marker `trackers` tells them, as for users."""
    if "trackers" not in request.keywords:
        from cellsemi.orchestrator.tracking import follow

        monkeypatch.setattr(follow.Follower, "look", lambda self, ended=False: None)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CELLSEMI_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def fake_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast stand-in in place of the flow U-Net, and no waiting for the disk."""
    from cellsemi.models.registry import FAMILIES

    monkeypatch.setitem(FAMILIES, "flow-unet", "helpers.fake_family")
    monkeypatch.setattr("os.fsync", lambda handle: None)  # half of the time of these small runs
