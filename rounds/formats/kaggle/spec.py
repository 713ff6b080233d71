"""Describes the formats of Kaggle: a CSV of run lengths, and submissions in both pixel orders."""

from __future__ import annotations

from cellsemi.rounds.formats.kaggle.detect import detect_run_lengths
from cellsemi.rounds.formats.kaggle.reader import RleCsv
from cellsemi.rounds.formats.kaggle.writer import write_column_major, write_submission
from cellsemi.rounds.formats.registry import FormatSpec

RLE_CSV = FormatSpec(
    "rle-csv",
    detect=detect_run_lengths,
    evidence="a CSV with run lengths (id and annotation, EncodedPixels, predicted or rle)",
    reader=RleCsv,
)
SUBMISSION = FormatSpec("kaggle", writer=write_submission)
SUBMISSION_BY_COLUMN = FormatSpec("kaggle-columns", writer=write_column_major)
