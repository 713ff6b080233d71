"""Recognises COCO files by the keys at their head, and finds their images."""

from __future__ import annotations

from cellsemi.configs.data import Split
from cellsemi.rounds.formats.shared.detection import (
    SAMPLE,
    Detected,
    Settings,
    folder_of,
    listings,
    one_or_all,
    split_of,
    with_unlabelled,
)
from cellsemi.rounds.formats.shared.folder_scan import FolderScan, json_strings, top_level_keys


def detect_coco(scan: FolderScan, file: str | None) -> Detected | None:
    """The COCO files among the JSON files: one for all splits, or one for each that a name speaks of."""
    found = [path for path in listings(scan, file, ".json") if _is_coco(scan.head(path))]
    if not found:
        return None
    by_split = _by_split(found)
    folders = {split: folder_of(scan, _file_names(scan, path), path) for split, path in by_split.items()}
    images = one_or_all(folders)
    settings: Settings = {"root": str(scan.root), "annotations": one_or_all(by_split), "images": images}
    settings |= with_unlabelled(scan, images)
    first = by_split["labelled"]
    why = f"{first} has the keys of COCO ({', '.join(top_level_keys(scan.head(first))[:4])})"
    return Detected("coco", settings, why, tuple(path for path in found if path not in by_split.values()))


def _is_coco(head: str) -> bool:
    keys = set(top_level_keys(head))
    return bool(keys & {"images", "annotations"}) and not keys & {"shapes", "features"}


def _file_names(scan: FolderScan, path: str) -> list[str]:
    """Some file names of a COCO file, from its start and its end."""
    found = json_strings(scan.head(path), "file_name") + json_strings(scan.tail(path), "file_name")
    return [name.replace("\\", "/") for name in dict.fromkeys((*found[:SAMPLE], *found[-SAMPLE:]))]


def _by_split(paths: list[str]) -> dict[Split, str]:
    """The files that are for train, val and test by their names, or those of their folders.

    The first one is for all when none says train.
    """
    named: dict[Split, str] = {}
    for path in paths:
        split = split_of(path)
        if split:
            named.setdefault(split, path)
    rest = [path for path in paths if path not in named.values()]
    if "labelled" not in named and rest:
        named["labelled"] = rest[0]
    return named if "labelled" in named else {"labelled": paths[0]}
