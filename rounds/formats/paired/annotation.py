"""Reads one annotation file of an image, whatever its format: a label map, or one with an extension of its own."""

from __future__ import annotations

from cellsemi.rounds.formats.base import FileCells
from cellsemi.rounds.formats.label_map.label_map import PLAIN, LabelMapRules, cells_of_label_map
from cellsemi.rounds.formats.registry import spec_of_file
from cellsemi.rounds.formats.shared.folder import Folder, split_extension
from cellsemi.rounds.store.image_codec import EXTENSIONS
from cellsemi.rounds.store.schemas import ImageRecord


def read_annotation_file(
    folder: Folder, path: str, record: ImageRecord, max_pixels: int, rules: LabelMapRules = PLAIN
) -> FileCells:
    """The cells in a file of `folder`; `rules` are those of `cells_of_labels`.

    ImageError when the file is damaged or does not fit its image.
    """
    content, extension = folder.read(path), split_extension(path)[1]
    if extension in EXTENSIONS:
        return FileCells(cells_of_label_map(content, path, record, max_pixels, rules))
    read = spec_of_file(extension, content).read_annotation
    assert read is not None, "a format with extensions reads annotation files"
    return read(content, path, record)
