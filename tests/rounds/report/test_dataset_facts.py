"""The tables behind the metadata fit the formats; cells that a format has no place for are not counted."""

from __future__ import annotations

from collections import Counter

import numpy as np

from cellsemi.configs.formats import WRITABLE
from cellsemi.rounds.cells import masks
from cellsemi.rounds.formats import measurements
from cellsemi.rounds.formats.base import Exported
from cellsemi.rounds.report.dataset_facts import Counted
from cellsemi.rounds.report.mifa import TYPES
from cellsemi.rounds.report.record_sets import TABLES
from cellsemi.rounds.store.schemas import ImageRecord


def test_each_format_has_a_type_of_annotation_and_each_column_a_meaning() -> None:
    assert set(TYPES) == set(WRITABLE)
    assert tuple(TABLES["measurements"]["cells"].columns) == measurements.COLUMNS


def test_cells_that_the_format_has_no_place_for_are_not_in_the_counts() -> None:
    labels = np.zeros((6, 8), np.uint16)
    labels[0:2, 0:2], labels[0:2, 3:5], labels[3:6, 3:6] = 1, 2, 3
    cells = masks.from_label_map(labels, state=["accepted", "ignored", "accepted"], class_id=[0, 1, 1])
    counted = Counted()
    records = [ImageRecord("a", 6, 8, "unlabelled", instances=cells), ImageRecord("b", 6, 8, "unlabelled")]
    assert list(counted.watch(records)) == records
    assert (counted.images, counted.without_cells, counted.sizes) == (2, 1, {(6, 8)})
    assert counted.classes == {0: 1, 1: 2}
    assert counted.written(Exported(cells=3)) == {"accepted": 2, "ignored": 1}
    lost = Counter({"ignored cells": 1, "cells covered whole by others": 1})
    assert counted.written(Exported(cells=1, losses=lost)) == {"accepted": 1}
