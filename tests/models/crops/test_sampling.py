"""The start of a sampler: chances and kinds of rows against plain loops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellsemi.models.crops.sampling import Names, chances, label_kinds
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.schemas import ImageRecord

NAME = st.sampled_from(["a", "b", "c", None])


def spread(images: list[int], share: float, levels: Sequence[Names], found: NDArray[np.float64]) -> None:
    """The definition: names of a level are equally likely, images without one keep their share."""
    if not levels:
        found[images] = share / len(images)
        return
    named: dict[str | None, list[int]] = {}
    for image in images:
        named.setdefault(levels[0][image], []).append(image)
    unknown = named.pop(None, [])
    if unknown:
        spread(unknown, share * len(unknown) / len(images), levels[1:], found)
    for members in named.values():
        spread(members, share * (1 - len(unknown) / len(images)) / len(named), levels[1:], found)


@given(st.integers(1, 12).flatmap(lambda n: st.lists(st.lists(NAME, min_size=n, max_size=n), min_size=1, max_size=3)))
def test_chances_are_those_of_the_definition_to_the_last_bit(levels: list[list[str | None]]) -> None:
    n = len(levels[0])
    expected = np.zeros(n)
    spread(list(range(n)), float(n), levels, expected)
    assert chances(n, levels).tolist() == expected.tolist()


KIND = st.sampled_from(["cells", "no cells", "not annotated"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["labelled", "unlabelled"]), KIND), min_size=1, max_size=14))
def test_kinds_of_rows_whether_statistics_tell_or_not(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    held = {
        "cells": masks.from_crops(4, 4, [(np.ones((1, 1), bool), 0, 0)]),
        "no cells": Instances.empty(4, 4),
        "not annotated": None,
    }
    made = [ImageRecord(f"i{i}", 4, 4, split, b"", instances=held[kind]) for i, (split, kind) in enumerate(rows)]
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    shards.write_shard(paths[0], made, "x")
    shards.write_shard(paths[1], made[::-1], "x")
    human, annotated = label_kinds(paths)
    splits, kinds = zip(*rows, *rows[::-1], strict=True)
    assert human.tolist() == [split == "labelled" for split in splits]
    assert annotated.tolist() == [kind != "not annotated" for kind in kinds]


def test_kinds_without_shards() -> None:
    human, annotated = label_kinds([])
    assert human.tolist() == annotated.tolist() == []
    assert chances(3, []).tolist() == pytest.approx([1, 1, 1])
