"""Describes the format paired: images that each have an annotation file, in any format that reads such files."""

from __future__ import annotations

from cellsemi.rounds.formats.paired.detect import detect_pairs
from cellsemi.rounds.formats.paired.reader import Paired
from cellsemi.rounds.formats.registry import FormatSpec

PAIRED = FormatSpec(
    "paired",
    detect=detect_pairs,
    evidence="images with X_masks, X_label, X_cp_masks, X_seg.npy, X.zip or X.geojson",
    reader=Paired,
)
