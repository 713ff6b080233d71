"""Which pseudo-labelled images hold what the human labels lack: against densities counted cell by cell."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellsemi.models.crops.need import SIZE_STEP, needs
from cellsemi.models.crops.sampling import ImageSampler
from cellsemi.rounds.cells import masks
from cellsemi.rounds.cells.instances import Instances
from cellsemi.rounds.store import shards
from cellsemi.rounds.store.schemas import ImageRecord

SIDE = 24
CELL = st.tuples(st.integers(0, 1), st.sampled_from((1, 2, 4)))  # class, side


def cells(wanted: list[tuple[int, int]], state: str) -> Instances:
    crops = [(np.ones((side, side), bool), 4 * place, 0) for place, (_, side) in enumerate(wanted)]
    found = masks.from_crops(SIDE, SIDE, crops, class_id=[number for number, _ in wanted] or 0)
    return found.with_(state=state)


def image(name: str, wanted: list[tuple[int, int]], human: bool) -> ImageRecord:
    found = cells(wanted, "human" if human else "accepted")
    return ImageRecord(name, SIDE, SIDE, "labelled" if human else "unlabelled", b"", instances=found)


def written(folder: Path, images: list[ImageRecord], cut: int) -> list[Path]:
    parts = [images[:cut], images[cut:]]
    paths = [folder / f"part-{number:05d}.parquet" for number in range(2)]
    for path, part in zip(paths, parts, strict=True):
        shards.write_shard(path, part, "hash")
    return paths


def expected(images: list[tuple[bool, list[tuple[int, int]]]]) -> list[float]:
    """Straight from the definition."""
    kind = {side: math.floor(math.log(side**2) / math.log(SIZE_STEP)) for side in (1, 2, 4)}
    counted = {human: Counter((c, kind[s]) for h, each in images if h == human for c, s in each) for human in (0, 1)}
    all_kinds = set(counted[0]) | set(counted[1])

    def share(human: int, which: tuple[int, int]) -> float:
        return (counted[human][which] + 1) / (counted[human].total() + len(all_kinds))

    def need(which: tuple[int, int]) -> float:
        return share(0, which) / (share(0, which) + share(1, which))

    return [float(np.mean([need((c, kind[s])) for c, s in each])) if each else 0.5 for _, each in images]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.lists(CELL, max_size=5)), min_size=2, max_size=6),
    st.integers(1, 5),
)
def test_need_is_the_ratio_of_the_shares(
    tmp_path: Path, images: list[tuple[bool, list[tuple[int, int]]]], cut: int
) -> None:
    made = [image(f"i{number}", wanted, human) for number, (human, wanted) in enumerate(images)]
    paths = written(tmp_path, made, min(cut, len(made) - 1))
    assert needs(paths) == pytest.approx(expected(images))


def test_images_of_what_is_lacking_are_drawn_more_often(tmp_path: Path) -> None:
    small, large = [(0, 1)] * 5, [(0, 4)] * 5
    made = [image("h", small, True), image("like", small, False), image("other", large, False)]
    paths = written(tmp_path, made, 1)
    weights = needs(paths)
    assert weights[2] > 1.5 * weights[1]
    sampler = ImageSampler(
        paths, human_fraction=0, human_from=9, balance="none", classes=("a",), pseudo_weights=weights
    )
    drawn = Counter(sampler.sample(np.random.default_rng(i), 0) for i in range(4000))
    assert drawn[0] == 0
    assert drawn[2] / 4000 == pytest.approx(weights[2] / (weights[1] + weights[2]), abs=0.03)
