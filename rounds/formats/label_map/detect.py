"""Recognises label maps with a manifest by the columns of the manifest, and finds their folders."""

from __future__ import annotations

from collections.abc import Sequence

from cellsemi.rounds.formats.shared.detection import (
    MASK_FOLDERS,
    RUN_LENGTHS,
    SAMPLE,
    Detected,
    Settings,
    column_settings,
    find_column,
    listings,
)
from cellsemi.rounds.formats.shared.folder_scan import FolderScan, table_head

MANIFEST = "manifest.csv"
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "raw", "data")


def detect_label_maps(scan: FolderScan, file: str | None) -> Detected | None:
    """The data set of a manifest: a CSV at the top with the columns id and split, `manifest.csv` before others."""
    paths = sorted(scan.top.named(".csv"), key=lambda path: path != MANIFEST)
    for path in paths if file is None else listings(scan, file, ".csv"):
        columns, rows = table_head(scan.head(path))
        if not {"id", "split"} <= set(columns) or find_column(columns, RUN_LENGTHS):
            continue
        settings: Settings = {"root": str(scan.root)}
        settings |= {"manifest": path} if path != MANIFEST else {}
        named = [row["id"] for row in rows[:SAMPLE]]
        settings |= _folder_setting(scan, "images", IMAGE_FOLDERS, named)
        settings |= _folder_setting(scan, "masks", MASK_FOLDERS, named)
        return Detected("label-maps", settings | column_settings(columns), f"{path} has the columns id and split")
    return None


def _folder_setting(scan: FolderScan, default: str, names: Sequence[str], ids: list[str]) -> Settings:
    """`{default: folder}` when the folder is called otherwise: a known name, or one whose files have the ids."""
    if default in scan.top.folders:
        return {}
    known = [name for name in names if name in scan.top.folders]
    holding = [seen.path for seen in scan.with_images() if seen.stems() & set(ids)]
    found = [folder for folder in (*known, *(holding if default == "images" else ())) if folder != "."]
    return {default: found[0]} if found else {}
