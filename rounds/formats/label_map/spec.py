"""Describes the format label maps: folders and a manifest to read, ID_masks.tif beside its image to write."""

from __future__ import annotations

from cellsemi.rounds.formats.label_map.detect import detect_label_maps
from cellsemi.rounds.formats.label_map.reader import open_part
from cellsemi.rounds.formats.label_map.writer import write_label_maps
from cellsemi.rounds.formats.registry import FormatSpec

LABEL_MAPS = FormatSpec(
    "label-maps",
    detect=detect_label_maps,
    evidence="a manifest.csv with the columns id and split",
    reader=open_part,
    writer=write_label_maps,
    writes_folder=True,
)
