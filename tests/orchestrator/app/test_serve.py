"""What stops the app before it serves anything, with the remedy."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from helpers.applied import small_run
from helpers.terminal import invoke

from cellsemi.configs.errors import UsageError
from cellsemi.orchestrator.app.serve import HOST, SILENT


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app tells Gradio by variables; they end with the test."""
    for name in (*SILENT, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")


def test_without_gradio_the_extra_is_named(here: Path, fake_models: None, monkeypatch: pytest.MonkeyPatch) -> None:
    small_run(here, 0)
    monkeypatch.setitem(sys.modules, "gradio", None)  # as if it were not installed
    result = invoke("app", "demo", "--no-open")
    assert isinstance(result.exception, UsageError) and 'pip install "cellsemi[app]"' in str(result.exception)
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False" and not Path(os.environ["GRADIO_TEMP_DIR"]).exists()


def test_a_port_that_is_taken_is_named(here: Path, fake_models: None) -> None:
    small_run(here, 0)
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        result = invoke("app", "demo", "--no-open", "--port", str(port))
    assert isinstance(result.exception, UsageError) and f"--port {port}: cannot be used" in str(result.exception)


def test_without_a_run_and_a_model_there_is_nothing_to_show(here: Path) -> None:
    result = invoke("app", "--no-open")
    assert isinstance(result.exception, UsageError) and "no run below ./runs" in str(result.exception)
