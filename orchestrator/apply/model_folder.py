"""Writes a model into a folder that stands alone: weights, everything that was chosen, a model card, checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cellsemi.configs.errors import UsageError
from cellsemi.models.model_files import CODE, MODEL_FILE, WEIGHTS_FILE, read_weights
from cellsemi.orchestrator.apply.choose_model import ChosenModel
from cellsemi.orchestrator.apply.recipe import MEMBERS, RECIPE_FILE
from cellsemi.rounds.evaluation.seen import SEEN_FILE
from cellsemi.rounds.store import files

CARD = "README.md"
CHECKSUMS = "SHA256SUMS"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model that was written: its folder, and its files with their sizes in bytes."""

    folder: Path
    title: str
    sizes: dict[str, int]


def write_model_folder(
    chosen: ChosenModel, card: str, out: Path, extra: Callable[[Path], None] | None = None
) -> ModelFolder:
    """Write a model into the new folder `out`, whole or not at all; `extra` adds files to it before it is summed up.

    UsageError when `out` holds something; ModelError when weights are missing or altered.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists and is not an empty folder; name a new one")
    with files.atomic_folder(out) as folder:
        chosen.model.recipe.write(folder / RECIPE_FILE)
        for member in chosen.model.recipe.members:
            source, place = chosen.model.folder(member.name), folder / MEMBERS / member.name
            files.write_bytes(place / WEIGHTS_FILE, read_weights(source))
            files.write_bytes(place / MODEL_FILE, (source / MODEL_FILE).read_bytes())
            for path in sorted((source / CODE).rglob("*")):  # of a family of the user's own
                if path.is_file() and "__pycache__" not in path.parts:
                    files.write_bytes(place / path.relative_to(source), path.read_bytes())
        chosen.seen.write(folder / SEEN_FILE)
        files.write_text(folder / CARD, card)
        if extra is not None:
            extra(folder)
        sizes = _sum_up(folder)
    return ModelFolder(out, chosen.model.recipe.title, sizes)


def _sum_up(folder: Path) -> dict[str, int]:
    """Write the sha256 of every file, as `sha256sum -c` reads it; returns their sizes by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    lines, sizes = [], {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
        sizes[name] = path.stat().st_size
    files.write_text(folder / CHECKSUMS, "".join(lines))
    return sizes
