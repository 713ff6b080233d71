"""Recognises a CSV of run lengths by its columns, and finds its images."""

from __future__ import annotations

from cellsemi.rounds.formats.shared.detection import (
    RUN_LENGTHS,
    SAMPLE,
    Detected,
    Settings,
    column_settings,
    find_column,
    folder_of,
    listings,
    with_unlabelled,
)
from cellsemi.rounds.formats.shared.folder_scan import FolderScan, table_head

IDS = ("id", "imageid", "image_id")


def detect_run_lengths(scan: FolderScan, file: str | None) -> Detected | None:
    """The first CSV with the columns of run lengths; one for training before others, examples last."""
    found: dict[str, tuple[list[str], list[dict[str, str]]]] = {}
    paths = listings(scan, file, ".csv")
    for path in sorted(paths, key=lambda path: ("sample" in path.lower(), "train" not in path.lower())):
        columns, rows = table_head(scan.head(path))
        if find_column(columns, IDS) and find_column(columns, RUN_LENGTHS):
            found[path] = columns, rows
    if not found:
        return None
    path, (columns, rows) = next(iter(found.items()))
    key, runs = find_column(columns, IDS), find_column(columns, RUN_LENGTHS)
    assert key is not None
    folder = folder_of(scan, list(dict.fromkeys(row[key] for row in rows))[:SAMPLE], path)
    settings: Settings = {"root": str(scan.root), "annotations": path, "images": folder}
    settings |= with_unlabelled(scan, folder) | column_settings(columns)
    return Detected("rle-csv", settings, f"{path} has the columns {key} and {runs}", tuple(list(found)[1:]))
