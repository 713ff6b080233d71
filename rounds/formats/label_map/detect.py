"""Recognises label maps with a manifest by the columns of the manifest, and finds their folders."""

from __future__ import annotations

from collections.abc import Sequence

from cellsemi.configs.errors import DataError
from cellsemi.rounds.formats.label_map.reader import NEEDED, manifest_columns
from cellsemi.rounds.formats.shared.detection import (
    MASK_FOLDERS,
    RUN_LENGTHS,
    SAMPLE,
    SPLIT_WORDS,
    Detected,
    Settings,
    column_settings,
    find_column,
    listings,
)
from cellsemi.rounds.formats.shared.folder_scan import FolderScan, table_head
from cellsemi.rounds.store.run import SPLITS

MANIFEST = "manifest.csv"
SPLIT_COLUMNS = ("split", "subset", "set", "partition", "usage")
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "raw", "data")


def detect_label_maps(scan: FolderScan, file: str | None) -> Detected | None:
    """The data set of a manifest: a CSV at the top with the columns id and split, `manifest.csv` before others.

    DataError for a table that says the splits and cannot be read as a manifest: passed over, the images that a person
    set aside for the test would be trained on.
    """
    paths = sorted(scan.top.named(".csv"), key=lambda path: path != MANIFEST)
    for path in paths if file is None else listings(scan, file, ".csv"):
        columns, rows = table_head(scan.head(path))
        if find_column(columns, RUN_LENGTHS):
            continue
        if not set(NEEDED) <= set(manifest_columns(columns)):
            _check_says_no_splits(scan, path, columns, rows)
            continue
        settings: Settings = {"root": str(scan.root)}
        settings |= {"manifest": path} if path != MANIFEST else {}
        key = find_column(columns, NEEDED[:1])
        named = [row[key] for row in rows[:SAMPLE] if key]
        settings |= _folder_setting(scan, "images", IMAGE_FOLDERS, named)
        settings |= _folder_setting(scan, "masks", MASK_FOLDERS, named)
        return Detected("label-maps", settings | column_settings(columns), f"{path} has the columns id and split")
    return None


def _check_says_no_splits(scan: FolderScan, path: str, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    """DataError for a file called manifest.csv, or with a column of split names, that lacks the columns of one."""
    split = find_column(columns, SPLIT_COLUMNS)
    words = {row[split].lower() for row in rows if split}
    if path.lower() != MANIFEST and not (words and words <= {*SPLIT_WORDS, *SPLITS}):
        return
    raise DataError(
        f"{scan.root / path}: says which images are for training and test, but is no manifest: it needs the columns "
        f"{' and '.join(NEEDED)} in UTF-8, and has: {', '.join(columns) or 'none that can be read'}. Correct it, give "
        "it another name if it is something else, or state what the data is (--set data.source=..)"
    )


def _folder_setting(scan: FolderScan, default: str, names: Sequence[str], ids: list[str]) -> Settings:
    """`{default: folder}` when the folder is called otherwise: a known name, or one whose files have the ids."""
    if default in scan.top.folders:
        return {}
    known = [name for name in names if name in scan.top.folders]
    holding = [seen.path for seen in scan.with_images() if seen.stems() & set(ids)]
    found = [folder for folder in (*known, *(holding if default == "images" else ())) if folder != "."]
    return {default: found[0]} if found else {}
