"""Keeps the weights that the models of a run start from: what each name stood for, and a copy of the files.

The table is the part `weights` of run.yaml. The copies lie in the run's folder, which every node of a cluster sees, so
that all rounds start from the same weights, whatever the name stands for later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from cellsemi.configs.errors import RunError
from cellsemi.rounds.store import files
from cellsemi.rounds.store.on_disk import OnDisk
from cellsemi.rounds.store.run import KEPT_WEIGHTS, RunPaths, read_run_file, write_part

CHUNK = 2**22  # bytes read at once


class KeptWeights(OnDisk):
    """The weights of one model, when the run first met them.

    `weights` is what the config states, `source` where that lay, `kept` the copy below the run's folder: a file, or the
    folder of a trained model. `sha256` is of the file with the tensors, `bytes` its size.
    """

    weights: str
    source: str
    sha256: str
    bytes: int
    kept: str


def read_kept(paths: RunPaths) -> dict[str, KeptWeights]:
    """The kept weights by the name of the model; RunError when run.yaml is missing or damaged."""
    table = read_run_file(paths).get(KEPT_WEIGHTS) or {}
    try:
        return {name: KeptWeights.model_validate(entry) for name, entry in table.items()}
    except (ValidationError, AttributeError) as error:
        raise RunError(f"{paths.config}: damaged ({KEPT_WEIGHTS}: {error})") from None


def write_kept(paths: RunPaths, kept: Mapping[str, KeptWeights]) -> None:
    """Write the table into run.yaml."""
    write_part(paths, KEPT_WEIGHTS, {name: each.model_dump(mode="json") for name, each in kept.items()})


def copy_files(paths: RunPaths, sources: Sequence[Path], sha256: Mapping[Path, str]) -> Path:
    """Copy some files of a folder side by side into the run's folder; returns the new folder.

    The folder is named by what the files hold: equal ones are kept once. RunError when a file changed since its sha256
    was taken, or the disk is full; nothing is half there.
    """
    key = files.sha256_json([sha256[path] for path in sources])[:16]
    folder = paths.weights / key
    for path in sources:
        target = folder / path.name
        if target.is_file() and _sha256(target) == sha256[path]:
            continue
        digest = hashlib.sha256()
        with files.atomic_file(target) as out, path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                out.write(chunk)
            if digest.hexdigest() != sha256[path]:
                raise RunError(f"{path}: changed while it was copied; run the same command again")
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
