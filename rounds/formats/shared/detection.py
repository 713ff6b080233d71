"""Holds what the rules that recognise a data set share: the answer, and how names are read.

A rule takes a scan of a folder and gives what it found, with the evidence in a sentence, or None.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from cellsemi.configs.data import Place, Source, Split
from cellsemi.rounds.formats.shared.folder import split_extension
from cellsemi.rounds.formats.shared.folder_scan import FolderScan, ScannedFolder, common_folder, parent

SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trainval"), "labelled"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
UNLABELLED_WORDS = ("semi", "unlabel")  # in the name of a folder of images without labels
MASK_FOLDERS = ("masks", "mask", "labels", "label", "label_maps", "annotations", "gt", "rois")
RUN_LENGTHS = ("annotation", "encodedpixels", "predicted", "rle")  # a CSV with one of these columns is no manifest
CLASS_COLUMNS = ("cell_type", "class", "kind")
GROUP_COLUMNS = ("sample_id", "well", "plate", "group")
SAMPLE = 6  # files that are looked for where a listing names them

Settings = dict[str, object]  # keys and values of the data section of a config


@dataclass(frozen=True, slots=True)
class Detected:
    """A data set as recognised. `settings` are those of DataConfig that differ from its defaults.

    `why` is the evidence, a sentence; `others` are files or folders that could have been meant as well; `tool` wrote
    it, "" when nothing tells which one.
    """

    source: Source
    settings: Settings
    why: str
    others: tuple[str, ...] = ()
    tool: str = ""


def listings(scan: FolderScan, file: str | None, extension: str) -> list[str]:
    """Paths of the files that may list a data set: all that were found, or `file` alone where one was named."""
    if file is None:
        return scan.find(extension)
    return [file] if file.lower().endswith(extension) else []


def find_column(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The column that is called as the first of these names that one has, upper or lower case."""
    by_name = {column.lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), None)


def column_settings(columns: Sequence[str]) -> Settings:
    """The settings that name the columns of class and group, where there are any."""
    found = {"class_column": find_column(columns, CLASS_COLUMNS), "group_column": find_column(columns, GROUP_COLUMNS)}
    return {name: column for name, column in found.items() if column}


def one_or_all(places: dict[Split, str]) -> Place:
    """One place when all splits have the same, else one per split."""
    return places["labelled"] if len(set(places.values())) == 1 else places


def folder_of(scan: FolderScan, names: list[str], listing: str) -> str:
    """The folder that holds the files of these names (or ids), as high up as the names stay distinct.

    Of several folders with such files those count that speak of the same split as the file `listing`, or else the one
    that it lies in. "images" when none of them is found: the reader then says what is missing.
    """
    holding = []
    for name in names:
        base, stem = name.rpartition("/")[2], split_extension(name.rpartition("/")[2])[0]
        exact = [seen.path for seen in scan if base in seen.files]
        holding += exact or [seen.path for seen in scan.with_images() if stem in seen.stems()]
    if not holding:
        return "images"
    split = split_of(listing)
    fitting = [path for path in holding if split and split_of(path) == split]
    holding = fitting or [path for path in holding if path == parent(listing)] or holding
    folder = common_folder(holding)
    while folder != "." and parent(folder) != "." and _continues(scan, folder):
        folder = parent(folder)
    return folder


def _continues(scan: FolderScan, folder: str) -> bool:
    """Whether the folders beside this one hold other images of the same kind (LIVECell: one per cell type)."""
    beside = [seen for seen in scan.within(parent(folder)) if seen.path != folder and seen.images]
    names = set(scan.folders[folder].images)
    return bool(beside) and not any(names & set(seen.images) or split_word(seen.path) for seen in beside)


def split_word(path: str) -> Split | None:
    """The split that the last part of a path speaks of: "instances_val2017.json", "train"."""
    words = re.findall("[a-z]+", path.rpartition("/")[2].lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def split_of(path: str) -> Split | None:
    """The split that a path speaks of, its last parts first: "valid/_annotations.coco.json"."""
    parts = PurePosixPath(path).parts
    return next((split for part in reversed(parts) if (split := split_word(part))), None)


def with_unlabelled(scan: FolderScan, images: Place) -> Settings:
    """The images setting with the folder of unlabelled images, when one of the upper folders is called so."""
    unlabelled = [
        seen.path
        for seen in (*scan.within("."), *(s for top in scan.within(".") for s in scan.within(top.path)))
        if any(word in seen.path.rpartition("/")[2].lower() for word in UNLABELLED_WORDS) and holds_images(scan, seen)
    ]
    if not unlabelled:
        return {}
    places: dict[Split, str] = images if isinstance(images, dict) else {"labelled": images}
    return {"images": {**places, "unlabelled": unlabelled[0]}}


def holds_images(scan: FolderScan, seen: ScannedFolder) -> bool:
    """Whether images lie in a folder, or in one right below it."""
    return bool(seen.images) or any(inside.images for inside in scan.within(seen.path))
