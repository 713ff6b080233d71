"""Describes the format COCO: one JSON file beside a folder of images."""

from __future__ import annotations

from cellsemi.rounds.formats.coco.detect import detect_coco
from cellsemi.rounds.formats.coco.reader import Coco
from cellsemi.rounds.formats.coco.writer import write_coco
from cellsemi.rounds.formats.registry import FormatSpec

COCO = FormatSpec("coco", detect=detect_coco, evidence="a COCO JSON", reader=Coco, writer=write_coco)
