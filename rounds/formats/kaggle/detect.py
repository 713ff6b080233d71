"""Recognises a CSV of run lengths by its columns, and finds its images."""

from __future__ import annotations

from cellsemi.rounds.formats.shared.detection import (
    RUN_LENGTHS,
    Detected,
    Settings,
    column_settings,
    find_column,
    folder_of,
    listings,
    with_unlabelled,
)
from cellsemi.rounds.formats.shared.folder_scan import FolderScan, table_head

SAMPLED = 60  # ids whose files are looked for
IDS = ("id", "imageid", "image_id")


def spread(ids: list[str]) -> list[str]:
    """At most SAMPLED of some ids, at equal distances: not all images of a listing need to be there."""
    return ids[:: max(1, len(ids) // SAMPLED)]


def _last_ids(tail: str, columns: list[str], key: str) -> list[str]:
    """The ids of the complete rows in the last part of a file."""
    _, rows = table_head("\n".join([",".join(columns), *tail.splitlines()[1:], ""]))
    return [row[key] for row in rows]


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
    ids = list(dict.fromkeys((*(row[key] for row in rows), *_last_ids(scan.tail(path), columns, key))))
    folder = folder_of(scan, spread(ids), path)
    settings: Settings = {"root": str(scan.root), "annotations": path, "images": folder}
    settings |= with_unlabelled(scan, folder) | column_settings(columns)
    return Detected("rle-csv", settings, f"{path} has the columns {key} and {runs}", tuple(list(found)[1:]))
