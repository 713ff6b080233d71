"""What kind of data set a folder or a file is: the first rule that fits, with the evidence in a sentence."""

from __future__ import annotations

from pathlib import Path

import yaml

from cellsemi.configs.errors import DataError
from cellsemi.rounds.formats.shards import IMPORT_FILE
from cellsemi.rounds.inspect.folder_scan import Glance
from cellsemi.rounds.inspect.rules import LOOKED_FOR, RULES, Detected, coco, csv_file
from cellsemi.rounds.store.run import RunPaths, read_config


def detect(path: Path) -> Detected:
    """What data set `path` is, a folder or the file that lists one; DataError when no rule fits.

    Reads names, and the heads of files, a few hundred folders at most.
    """
    if path.is_file():
        return _detect_file(path)
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder")
    if (path / IMPORT_FILE).is_file():
        return Detected("shards", {"root": str(path)}, f"{IMPORT_FILE}: what `cellsemi data import` wrote")
    paths = RunPaths(path)
    if paths.config.is_file() and paths.data.is_dir():
        return _of_run(paths)
    glance = Glance(path)
    for rule in RULES:
        found = rule(glance)
        if found is not None:
            return found
    raise DataError(
        f"{path}: no data set that is known. Looked for: {'; '.join(LOOKED_FOR)}. "
        f"There is: {glance.contents()}. data.source and its settings can say what it is (--config, --set)"
    )


def as_yaml(detected: Detected, classes: tuple[str, ...]) -> str:
    """The data section that reads it, to be pasted into cellsemi.yaml."""
    section = {"source": detected.source, **detected.settings, "classes": list(classes)}
    return yaml.safe_dump({"data": section}, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def _of_run(paths: RunPaths) -> Detected:
    """The data set that a run was made from; the run's own copy of it lies in its data folder."""
    settings = read_config(paths).data.model_dump(mode="json", exclude_defaults=True)
    source = read_config(paths).data.source
    settings.pop("source", None)
    settings.pop("classes", None)
    why = f"{paths.config.name}: a run; this is the data set it was made from, its own copy is in {paths.data.name}/"
    return Detected(source, settings, why)


def _detect_file(path: Path) -> Detected:
    glance = Glance(path.parent)
    rule = {".json": coco, ".csv": csv_file}.get(path.suffix.lower())
    found = rule(glance, [path.name]) if rule else None
    if found is None:
        raise DataError(
            f"{path}: not a file that lists a data set: expected a COCO JSON, a CSV of run lengths, or a "
            "manifest with the columns id and split"
        )
    return found
