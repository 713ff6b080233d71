"""Describes the formats of Kaggle: a CSV of run lengths, and submissions in both pixel orders."""

from __future__ import annotations

from cellsemi.rounds.formats.kaggle.detect import detect
from cellsemi.rounds.formats.kaggle.reader import RleCsv
from cellsemi.rounds.formats.kaggle.writer import write, write_column_major
from cellsemi.rounds.formats.registry import FormatSpec

RLE_CSV = FormatSpec(
    "rle-csv",
    detect=detect,
    evidence="a CSV with run lengths (id and annotation, EncodedPixels, predicted or rle)",
    reader=RleCsv,
)
SUBMISSION = FormatSpec("kaggle", writer=write)
SUBMISSION_BY_COLUMN = FormatSpec("kaggle-columns", writer=write_column_major)
