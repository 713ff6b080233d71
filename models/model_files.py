"""Reads and writes the files of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellsemi.configs.errors import ModelError
from cellsemi.rounds.store import files

MODEL_FILE = "model.json"


WEIGHTS_FILE = "model.safetensors"


PROGRESS_FILE = "progress.json"


def write_model_file(folder: Path, kind: str, weights: bytes, description: dict[str, Any]) -> None:
    """Write the weights, then MODEL_FILE with their sha256: a folder with MODEL_FILE is whole."""
    files.write_bytes(folder / WEIGHTS_FILE, weights)
    content = {"kind": kind, "weights_sha256": files.sha256_bytes(weights), **description}
    files.write_json(folder / MODEL_FILE, content)


def read_model_file(folder: Path) -> dict[str, Any]:
    """The description of a trained folder; ModelError when it is missing."""
    path = folder / MODEL_FILE
    if not path.is_file():
        raise ModelError(f"{path}: no trained model here; a finished fit writes this file last")
    content: dict[str, Any] = files.read_json(path)
    return content


def read_weights(folder: Path) -> bytes:
    """The weights' bytes, verified against MODEL_FILE; never anything else in their place."""
    path = folder / WEIGHTS_FILE
    expected = read_model_file(folder)["weights_sha256"]
    if not path.is_file():
        raise ModelError(f"{path}: the weights are missing")
    content = path.read_bytes()
    found = files.sha256_bytes(content)
    if found != expected:
        raise ModelError(f"{path}: sha256 {found[:16]}… is not the stated {expected[:16]}…; the file was altered")
    return content
