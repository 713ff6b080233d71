"""A run says at which size a network sees images, where that is not their own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from helpers.model_folder import UNET, facts_of

from cellsemi.models.model_files import CellSize, write_model_file
from cellsemi.orchestrator.stages.train import _note_cell_size


def test_a_model_of_resized_images_is_named_with_its_size(tmp_path: Path) -> None:
    notes: list[str] = []
    context: Any = SimpleNamespace(watcher=SimpleNamespace(note=notes.append))
    for size in (CellSize(), CellSize(diameter_px=47.8), CellSize(diameter_px=80.0, scale=0.5)):
        write_model_file(tmp_path, b"x", facts_of(UNET).model_copy(update={"cell_size": size}))
        _note_cell_size(context, tmp_path, "unet.fold-1")
    assert notes == ["unet.fold-1 sees images at 0.5 times their size, their cells of 80 px at 40 px"]
