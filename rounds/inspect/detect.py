"""Recognises what data set a folder or a file is: the first format whose rule fits, with the evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cellsemi.configs.data import DataConfig
from cellsemi.configs.errors import DataError
from cellsemi.rounds.formats.registry import FormatSpec, all_specs
from cellsemi.rounds.formats.shared.detection import Detected
from cellsemi.rounds.formats.shared.folder_scan import FolderScan
from cellsemi.rounds.inspect.tools import Unread, refusal, tool_of, unread
from cellsemi.rounds.store.run import RunPaths, read_config

BY_NAMES = "paired"  # the rule that goes by names alone, after all others


def detect(path: Path) -> Detected:
    """What data set `path` is, a folder or the file that lists one; DataError when no rule fits.

    Reads names, and the heads of files, a few hundred folders at most.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    paths = RunPaths(path)
    if paths.config.is_file() and paths.data.is_dir():
        return _of_run(paths)
    file = path.name if path.is_file() else None
    scan = FolderScan(path.parent if file else path)
    specs = [spec for spec in all_specs() if spec.detect is not None]
    for spec in specs:
        if spec.name == BY_NAMES and file is None:
            _check_not(list(unread(scan, first=True)), path)
        found = spec.detect(scan, file) if spec.detect else None
        if found is not None:
            return replace(found, tool=tool_of(scan, found))
    _check_not([(kind, shown) for kind, shown in unread(scan, first=False) if file in (None, shown)], path)
    what = "not a file that lists a data set" if file else "no data set that is known"
    contents = "" if file else f" There is: {scan.contents()}."
    raise DataError(
        f"{path}: {what}. Looked for: {'; '.join(_evidence(specs))}.{contents} "
        "data.source and its settings can say what it is (--config, --set)"
    )


def data_section(path: Path) -> DataConfig:
    """The data section that reads what `detect` recognises at a path; DataError as it."""
    found = detect(path)
    return DataConfig.model_validate({"source": found.source, **found.settings})


def _check_not(kinds: Sequence[tuple[Unread, str]], path: Path) -> None:
    """DataError when exports that are not read were found."""
    if kinds:
        raise DataError(f"{path}: {refusal(kinds)}")


def _evidence(specs: Sequence[FormatSpec]) -> Iterator[str]:
    return (spec.evidence or f"the layout of {spec.name}" for spec in specs)


def _of_run(paths: RunPaths) -> Detected:
    """The data set that a run was made from; the run's own copy of it lies in its data folder."""
    settings = read_config(paths).data.model_dump(mode="json", exclude_defaults=True)
    source = read_config(paths).data.source
    settings.pop("source", None)
    why = f"{paths.config.name}: a run; this is the data set it was made from, its own copy is in {paths.data.name}/"
    return Detected(source, settings, why)
