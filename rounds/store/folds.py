"""Names who learns from which human labels and who is evaluated on which: one hold-out, or K folds."""

from __future__ import annotations

HUMAN_SPLIT = "labelled"


PSEUDO_SPLIT = "unlabelled"
