"""Finds the code of a format: what it recognises, reads and writes.

A format is one module (or one folder) with one FormatSpec, and one entry in `configs/formats.py`, which is imported
first and names the FormatSpec. To add a format, write the module and the entry; nothing else lists formats.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cellsemi.configs.formats import FORMATS, FormatEntry, entry_of
from cellsemi.rounds.formats.base import FileCells, Part, Reader, Writer
from cellsemi.rounds.formats.shared.detection import Detected
from cellsemi.rounds.formats.shared.folder_scan import FolderScan
from cellsemi.rounds.store.schemas import ImageRecord

# (scan of a folder, the one file in it that the user named or None) -> the data set, or None when it is no such one.
Detect = Callable[[FolderScan, str | None], Detected | None]

# (content, path for messages, record of the image) -> the cells; ImageError when the file is damaged or does not fit.
ReadAnnotation = Callable[[bytes, str, ImageRecord], FileCells]


@dataclass(frozen=True, slots=True)
class FormatSpec:
    """What a format does; None where it has no such thing. `name` is that of its entry.

    `detect` recognises a data set, and `evidence` is what it looks for, in words. `reader` opens one part of a data
    set (`data.source`). `read_annotation` reads an annotation file beside its image, with one of the `extensions`
    of the entry (`data.source: paired`), if `takes` says so of the content; `has_classes`: such a file may name the
    classes of its cells. `writer` writes a file or, with `writes_folder`, into a new folder.
    """

    name: str
    detect: Detect | None = None
    evidence: str = ""
    reader: Callable[[Part], Reader] | None = None
    read_annotation: ReadAnnotation | None = None
    takes: Callable[[bytes], bool] = lambda content: True
    has_classes: bool = False
    writer: Writer | None = None
    writes_folder: bool = False


def spec_of(name: str) -> FormatSpec:
    """The spec of a format, its module imported now. KeyError for an unknown name."""
    return load(entry_of(name))


def load(entry: FormatEntry) -> FormatSpec:
    """The spec that an entry names; ValueError when the two do not say the same."""
    module, name = entry.spec.split(":")
    spec = getattr(importlib.import_module(module), name)
    if not isinstance(spec, FormatSpec) or spec.name != entry.name:
        raise ValueError(f"configs/formats.py: {entry.spec} is not the FormatSpec of the format {entry.name!r}")
    stated = {"reads": entry.reads, "writes": entry.writes, "extensions": bool(entry.extensions)}
    found = {"reads": spec.reader, "writes": spec.writer, "extensions": spec.read_annotation}
    for what, value in stated.items():
        if value is (found[what] is None):
            raise ValueError(f"configs/formats.py: `{what}` of {entry.name!r} does not fit its FormatSpec")
    return spec


def all_specs() -> Iterator[FormatSpec]:
    """The specs of all formats, in the order of their entries, which is that of detection."""
    return (load(entry) for entry in FORMATS)


def reader_of(name: str) -> Callable[[Part], Reader]:
    """What opens a data set whose `data.source` is `name`; ValueError when the format is only written."""
    reader = spec_of(name).reader
    if reader is None:
        raise ValueError(f"the format {name!r} has no reader of data sets")
    return reader


def specs_of_extension(extension: str) -> list[FormatSpec]:
    """The formats of annotation files with this extension ('.geojson'), in the order of their entries."""
    return [load(entry) for entry in FORMATS if extension in entry.extensions]


def spec_of_file(extension: str, content: bytes) -> FormatSpec:
    """The format of an annotation file: the first of its extension that takes the content, or else the last."""
    found = specs_of_extension(extension)
    return next((spec for spec in found if spec.takes(content)), found[-1])
